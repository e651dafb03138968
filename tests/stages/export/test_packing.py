"""Packing keeps every code, in the layout that the operators document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.stages.export.onnx.packing import group_of_block, pack_bits, to_blocks, unpack_bits


@pytest.mark.parametrize(
    ("bits", "codes", "packed"),
    [
        (4, [0x1, 0xA, 0xF, 0x3], [0xA1, 0x3F]),
        (2, [0b01, 0b10, 0b11, 0b00], [0b00111001]),
        (8, [7, 255], [7, 255]),
    ],
)
def test_the_first_code_takes_the_lowest_bits(bits: int, codes: list[int], packed: list[int]) -> None:
    assert pack_bits(np.array(codes, np.uint8), bits).tolist() == packed


def test_an_odd_count_is_filled_with_zero_bits() -> None:
    assert pack_bits(np.array([[5, 6, 7]], np.uint8), 4).tolist() == [[0x65, 0x07]]


@given(
    bits=st.sampled_from([2, 4, 8]),
    rows=st.integers(1, 5),
    columns=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_unpacking_gives_back_every_code(bits: int, rows: int, columns: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    assert np.array_equal(unpack_bits(pack_bits(codes, bits), bits)[:, :columns], codes)


def test_a_short_last_block_is_filled_with_its_own_zero_point() -> None:
    codes = np.array([[1, 2, 3, 4, 5]], np.uint8)
    zeros = np.array([[8, 9]], np.uint8)
    assert to_blocks(codes, zeros, 4).tolist() == [[[1, 2, 3, 4], [5, 9, 9, 9]]]


def test_blocks_smaller_than_a_group_repeat_its_scale() -> None:
    assert group_of_block(columns=300, group=256, block=128).tolist() == [0, 0, 1]
