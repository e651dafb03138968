"""The Fisher information of weights: squares of the gradients that transformers' network has by window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.stages.model.blocks.network import Batch
from ingot.stages.model.calibration.shelf import Shelf
from ingot.stages.model.calibration.weight_fisher import weight_fisher
from ingot.stages.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SEED = 11


def information(directory: Path, tmp_path: Path, threads: int = 1) -> dict[str, torch.Tensor]:
    source = Checkpoint.open(directory)
    ids = torch.arange(48).reshape(2, 2, 12) * 7 % 300 + 10
    batches = [Batch(each, each.flip(1)) for each in ids]
    shelf, device = Shelf(1 << 20, tmp_path), torch.device("cpu")
    found: dict[str, torch.Tensor] = {}
    for _, part in weight_fisher(
        source.architecture, source.tensors, batches, shelf, device, threads, SEED, lambda *_: None
    ):
        assert not part.keys() & found.keys()
        found |= part
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_it_is_the_mean_square_of_the_gradients_of_whole_windows(
    family: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    import transformers

    directory = tiny_checkpoint(family)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    windows = torch.arange(48).reshape(4, 1, 12) * 7 % 300 + 10  # no padding, whose row torch holds still
    expected: dict[str, torch.Tensor] = {}
    for number, ids in enumerate(windows):
        model.zero_grad()
        logits = model(ids).logits.flatten(0, 1)
        generator = torch.Generator().manual_seed(SEED + number)
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected[name] = expected.get(name, torch.zeros(())) + parameter.grad.square() / len(windows)
    found = information(directory, tmp_path)
    is_tied = model.config.tie_word_embeddings
    embedding = Checkpoint.open(directory).architecture.embedding
    stored = set(Checkpoint.open(directory).tensors.names())
    compared = 0
    for name, value in expected.items():
        key = name if name in stored else name.removeprefix("transformer.")
        if is_tied and key == embedding:
            continue  # its two uses are squared apart
        torch.testing.assert_close(found[key], value, rtol=5e-3, atol=1e-7)
        compared += 1
    assert compared >= len(found) - 1
    assert found[embedding].shape == Checkpoint.open(directory).tensors.info(embedding).shape


@pytest.mark.parametrize("family", ["mixtral", "t5", "bert", "opt"])
def test_other_kinds_have_it_and_threads_change_no_bit(
    family: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    one, many = (information(tiny_checkpoint(family), tmp_path, threads) for threads in (1, 3))
    source = Checkpoint.open(tiny_checkpoint(family))
    assert {linear.name for linear in source.architecture.linears} <= one.keys()
    for name, value in one.items():
        assert value.shape == source.tensors.info(name).shape
        assert torch.equal(value, many[name])
