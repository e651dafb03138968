"""A source with scales folded in reads as a checkpoint that was written with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.fold import factors
from ingot.stages.model.folded import FoldedTensors
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

from .test_fold import random_scales, write_folded

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_folded_tensors_are_those_that_would_be_written(
    family: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    checkpoint = Checkpoint.open(directory)
    applied = random_scales(checkpoint.architecture)
    written = load_file(write_folded(directory, tmp_path / "folded", applied) / "model.safetensors")
    turned = {linear.name for linear in checkpoint.architecture.linears if linear.stored_in_out}
    folded = FoldedTensors(checkpoint.tensors, factors(applied), turned)
    assert folded.names() == checkpoint.tensors.names()
    for name, expected in written.items():
        assert name in folded
        assert_array_equal(folded.float32(name), expected)
        assert_array_equal(folded.array(name), expected)
        assert_array_equal(folded.raw(name), expected.reshape(-1).view(np.uint8))
        if expected.ndim > 1:
            assert_array_equal(folded.float32(name, rows=slice(3, 9)), expected[3:9])
        folded.release(name)


def test_what_changes_is_float32_and_the_rest_keeps_its_dtype(tiny_checkpoint: Any) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint("llama", "bfloat16"))
    fold, scales = random_scales(checkpoint.architecture)[0]
    folded = FoldedTensors(checkpoint.tensors, factors([(fold, scales)]), ())
    dtypes = {name: folded.info(name).dtype for name in folded.names()}
    changed = {name for name, dtype in dtypes.items() if dtype == "F32"}
    readers = {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"}
    assert changed == {*readers, "model.layers.0.input_layernorm.weight"}
    assert {dtype for name, dtype in dtypes.items() if name not in changed} == {"BF16"}
    assert folded.info("lm_head.weight") == checkpoint.tensors.info("lm_head.weight")
    gain = checkpoint.tensors.float32("model.layers.0.input_layernorm.weight")
    assert_array_equal(
        folded.float32("model.layers.0.input_layernorm.weight"), gain * (np.float32(1) / scales)
    )
