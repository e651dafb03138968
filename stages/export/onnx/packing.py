"""Codes laid out as onnxruntime's kernels read them: blocks of a row, several codes a byte, low bits first.

Packing rearranges codes and repeats scales; it changes no value. Layouts follow the operator documentation
of `com.microsoft.MatMulNBits` and `com.microsoft.GatherBlockQuantized`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


def pack_bits(codes: Bytes, bits: int) -> Bytes:
    """[..., n] codes below 2^bits → [..., ceil(n·bits/8)] bytes, the first code in the lowest bits."""
    per_byte = 8 // bits
    if per_byte == 1:
        return np.ascontiguousarray(codes)
    short = -codes.shape[-1] % per_byte
    if short:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, short)])
    packed = codes[..., ::per_byte].copy()
    for index in range(1, per_byte):
        packed |= codes[..., index::per_byte] << np.uint8(bits * index)
    return packed


def unpack_bits(packed: Bytes, bits: int) -> Bytes:
    """The inverse of :func:`pack_bits`, padding included: [..., n] bytes → [..., n·8/bits] codes."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)


def to_blocks(codes: Bytes, zeros: Bytes, block: int) -> Bytes:
    """[out, in] codes → [out, blocks, block]; what a last block lacks is filled with its zero point.

    zeros: [out, blocks], one for each block, so that filled places stand for 0.
    """
    rows, columns = codes.shape
    count = zeros.shape[1]
    if columns == count * block:
        return codes.reshape(rows, count, block)
    padded = np.repeat(zeros[:, -1:], count * block, axis=1)
    padded[:, :columns] = codes
    return padded.reshape(rows, count, block)


def group_of_block(columns: int, group: int, block: int) -> npt.NDArray[np.intp]:
    """For each block of a row, the index of the group that holds it; ``block`` divides ``group``."""
    return np.arange(0, columns, block) // group
