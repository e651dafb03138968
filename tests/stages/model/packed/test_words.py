"""Streams of bits in words, against arithmetic on whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.stages.model.packed import words


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 100), st.integers(0, 2**32))
def test_a_row_is_one_number_whose_digits_are_the_codes(bits: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count)).astype(np.uint8)
    packed = words.pack(codes, bits)
    assert packed.dtype == np.int32
    assert packed.shape == (rows, -(-count * bits // 32))
    for row, row_words in zip(codes.tolist(), packed.view(np.uint32).tolist(), strict=True):
        number = sum(code << (bits * place) for place, code in enumerate(row))
        assert sum(word << (32 * place) for place, word in enumerate(row_words)) == number
    assert np.array_equal(words.unpack(packed, bits, count), codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_blocks_of_rows_make_no_difference(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (7, 96)).astype(np.uint8)
    whole = words.pack(codes, bits)
    monkeypatch.setattr(words, "BLOCK_CODES", 200)
    assert np.array_equal(words.pack(codes, bits), whole)
    assert np.array_equal(words.unpack(whole, bits, 96), codes)
