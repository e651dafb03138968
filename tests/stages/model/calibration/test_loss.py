"""What a text costs a network: as transformers counts it, whatever the threads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError
from ingot.stages.model.blocks.network import Batch
from ingot.stages.model.calibration.loss import text_loss
from ingot.stages.model.calibration.shelf import Shelf
from ingot.stages.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def batches() -> list[Batch]:
    long, short = torch.arange(4, 52).reshape(2, 24) * 7 % 320, torch.arange(5, 14).reshape(1, 9)
    return [Batch(long), Batch(short)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "mixtral"])
def test_it_is_the_cross_entropy_of_every_token_behind_the_first(
    family: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    import transformers

    directory = tiny_checkpoint(family)
    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    expected = 0.0
    with torch.no_grad():
        for batch in batches():
            count = batch.ids.shape[0] * (batch.ids.shape[1] - 1)
            expected += float(network(batch.ids, labels=batch.ids).loss) * count
    source, shelf = Checkpoint.open(directory), Shelf(1 << 20, tmp_path)
    found = text_loss(source.architecture, source.tensors, batches(), shelf, 1)
    assert found.tokens == 2 * 23 + 8
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.mean == found.nats / found.tokens
    assert text_loss(source.architecture, source.tensors, batches(), shelf, 2) == found


def test_it_is_infinite_where_a_weight_is_not_finite(tiny_checkpoint: Any, tmp_path: Path) -> None:
    source = Checkpoint.open(tiny_checkpoint("llama"))

    class Broken:
        def float32(self, name: str, rows: slice | None = None) -> np.typing.NDArray[np.float32]:
            found = source.tensors.float32(name, rows)
            return np.full_like(found, np.nan) if name == source.architecture.final_norm.weight else found

        def release(self, name: str) -> None:
            source.tensors.release(name)

    found = text_loss(source.architecture, Broken(), batches(), Shelf(1 << 20, tmp_path), 1)
    assert math.isinf(found.nats)


def test_an_encoder_has_none(tiny_checkpoint: Any, tmp_path: Path) -> None:
    source = Checkpoint.open(tiny_checkpoint("bert"))
    with pytest.raises(InputError, match="bert is an encoder, which predicts no next token"):
        text_loss(source.architecture, source.tensors, batches(), Shelf(1 << 20, tmp_path), 1)
