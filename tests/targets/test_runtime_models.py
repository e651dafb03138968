"""Sessions of exported models against transformers: generation token for token, and encoders."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError
from ingot.targets.runtimes import onnx
from ingot.targets.runtimes.base import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROMPTS = [[7, 200, 31, 5], [300, 9], [44, 45, 46, 47, 48, 49, 50], [12]]
NEW_TOKENS = 12


@contextlib.contextmanager
def session(run_stage: Callable[..., Any], checkpoint: Path) -> Iterator[onnx.OnnxSession]:
    opened = onnx.open(run_stage("export.onnx", {"model": checkpoint}).path, threads=1)
    try:
        yield opened
    finally:
        opened.close()


def generated_by_transformers(
    directory: Path, prompts: list[list[int]], **settings: object
) -> list[list[int]]:
    """Each prompt alone, without padding or batch."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, **settings
        )
        new = whole[0, len(prompt) :].tolist()
        rows.append(new[: new.index(1)] if 1 in new else new)
    return rows


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_left_padded_batch_generates_what_transformers_does_for_each_prompt(
    run_stage: Callable[..., Any], tiny_checkpoint: Callable[..., Path], family: str
) -> None:
    directory = tiny_checkpoint(family)
    expected = generated_by_transformers(directory, PROMPTS, do_sample=False)
    with session(run_stage, directory) as opened:
        assert opened.generate(PROMPTS, Sampling(max_new_tokens=NEW_TOKENS)) == expected


def test_an_encoders_padding_on_the_right_changes_nothing(
    run_stage: Callable[..., Any], tiny_checkpoint: Callable[..., Path]
) -> None:
    import torch
    from transformers import AutoModel

    directory = tiny_checkpoint("bert")
    model = AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    ids = np.array([[7, 200, 31, 5, 9], [300, 9, 2, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with session(run_stage, directory) as opened, torch.no_grad():
        assert opened.info.task == "encoder"
        states = opened.logits(ids, mask)
        for row, length in enumerate((5, 3)):
            alone = model(input_ids=torch.tensor(ids[row : row + 1, :length])).last_hidden_state[0].numpy()
            np.testing.assert_allclose(states[row, :length], alone, atol=1e-5)


def test_an_encoder_can_neither_step_nor_generate(
    run_stage: Callable[..., Any], tiny_checkpoint: Callable[..., Path]
) -> None:
    with session(run_stage, tiny_checkpoint("bert")) as opened:
        with pytest.raises(InputError, match="encoder"):
            opened.step(np.array([[7, 8]]))
        with pytest.raises(InputError, match="encoder"):
            opened.generate([[7, 8]], Sampling())
