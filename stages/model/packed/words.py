"""Codes as a stream of bits in 32-bit words, the first code in the lowest bits; a code may cross two words.

With 2, 4 and 8 bits a word holds 16, 8 and 4 codes; with 3 bits, three words hold 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .base import word_count

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]
    Words = npt.NDArray[np.int32]

# Eight codes of b bits are b whole bytes.
PER_UNIT = 8
# What is converted at once: large enough to be fast, small beside a weight.
BLOCK_CODES = 1 << 22


def pack(codes: Codes, bits: int) -> Words:
    """uint8 [rows, n], below 2^bits → int32 [rows, ceil(n·bits / 32)]; what a last word lacks is 0."""
    rows, count = codes.shape
    words = np.zeros((rows, word_count(count, bits)), "<u4")
    for block in _blocks(rows, count):
        padded = np.pad(codes[block], ((0, 0), (0, -count % PER_UNIT)))
        units = np.zeros((len(padded), padded.shape[1] // PER_UNIT), "<u8")
        for index in range(PER_UNIT):
            units |= padded[:, index::PER_UNIT].astype("<u8") << np.uint64(bits * index)
        stream = units.view(np.uint8).reshape(*units.shape, 8)[:, :, :bits].reshape(len(padded), -1)
        target = words.view(np.uint8)[block]
        # Padding with zeros to whole units may reach past the last word, and may fall short of it.
        used = min(stream.shape[1], target.shape[1])
        target[:, :used] = stream[:, :used]
    return words.view("<i4")


def unpack(words: Words, bits: int, count: int) -> Codes:
    """The inverse of :func:`pack`: int32 [rows, words] → uint8 [rows, count]."""
    rows = len(words)
    codes = np.empty((rows, count), np.uint8)
    stream = np.ascontiguousarray(words).view(np.uint8)
    unit_count = -(-count // PER_UNIT)
    for block in _blocks(rows, count):
        part = stream[block]
        part = np.pad(part, ((0, 0), (0, max(0, unit_count * bits - part.shape[1]))))
        raw = np.zeros((len(part), unit_count, 8), np.uint8)
        raw[:, :, :bits] = part[:, : unit_count * bits].reshape(len(part), unit_count, bits)
        units = raw.view("<u8")[:, :, 0]
        for index in range(PER_UNIT):
            lane = codes[block][:, index::PER_UNIT]
            values = (units >> np.uint64(bits * index)) & np.uint64(2**bits - 1)
            lane[:] = values[:, : lane.shape[1]]
    return codes


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, BLOCK_CODES // max(1, columns))
    return [slice(start, start + step) for start in range(0, rows, step)]
