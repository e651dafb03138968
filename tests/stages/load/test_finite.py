"""Counting NaN and infinite weights, against numpy and torch, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import IntakeError
from ingot.artifacts.tensors import read_header
from ingot.stages.load import finite

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored(path, **tensors):
    safetensors.torch.save_file(tensors, path)
    return read_header(path)


# Exponents of ones alone, in the upper 16 bits of every dtype, among arbitrary bits.
halves = st.sampled_from([0x7F80, 0xFF81, 0x7C00, 0xFC01, 0x7FF0, 0xFFF8, 0x7BFF, 0]) | st.integers(0, 0xFFFF)
words = st.lists(st.tuples(halves, halves, halves, halves), min_size=1, max_size=20)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@given(words=words, block=st.sampled_from([8, 24, 1 << 20]))
def test_any_bit_pattern_is_judged_as_torch_judges_it(tmp_path_factory, dtype, words, block):
    values = torch.from_numpy(np.array(words, np.uint16).reshape(-1)).view(DTYPES[dtype])
    path = tmp_path_factory.mktemp("finite") / "model.safetensors"
    info = stored(path, odd=torch.zeros(3, dtype=torch.uint8), w=values)["w"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finite, "BLOCK_BYTES", block)
        assert finite.count_nonfinite(info) == int((~torch.isfinite(values)).sum())


def test_a_tensor_without_elements_has_none_that_are_not_finite(tmp_path):
    assert finite.count_nonfinite(stored(tmp_path / "model.safetensors", w=torch.empty(0, 4))["w"]) == 0


def test_a_large_tensor_is_scanned_in_little_memory(tmp_path):
    values = torch.ones(16 << 20, dtype=torch.bfloat16)
    values[-1] = float("inf")
    info = stored(tmp_path / "model.safetensors", w=values)["w"]
    tracemalloc.start()
    try:
        assert finite.count_nonfinite(info) == 1
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert info.nbytes == 32 << 20
    assert peak_bytes < 16 << 20


def test_equal_copies_pass_as_tied_and_others_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(finite, "BLOCK_BYTES", 64)
    table = torch.randn(32, 8)
    late = table.clone()
    late[-1, -1] += 1
    infos = stored(tmp_path / "w.safetensors", table=table, copy=table.clone(), late=late, half=table.half())
    finite.check_tied(infos["table"], infos["copy"], tmp_path)
    for name in ("late", "half"):
        with pytest.raises(IntakeError, match=f"ties {name} to the embedding, but it is not table"):
            finite.check_tied(infos["table"], infos[name], tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "model.safetensors"
    info = stored(path, w=torch.ones(1000))["w"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntakeError, match="ended within w"):
        finite.count_nonfinite(info)
