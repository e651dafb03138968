"""Rounding to the levels of nf4 and fp8: scales and codes of a weight matrix, as pure numpy functions.

nf4: each group divided by its largest magnitude, to the nearest of 16 levels; the scales may be quantized
themselves (QLoRA, arXiv:2305.14314, section 3).  fp8: each row, or the whole matrix, divided so that its
largest magnitude is E4M3's largest number, 448, then rounded to nearest, ties to even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..model.levels import E4M3_LARGEST, dynamic_levels, levels
from ..model.quantized import SCALES_PER_BLOCK

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..model.quantized import WeightFormat

    Floats = npt.NDArray[np.float32]
    Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DoubleScales:
    """Scales as codes. codes: uint8 [out, groups]; scales: float32 [blocks of 256]; offset: float32 [1]."""

    codes: Codes
    scales: Floats
    offset: Floats

    def values(self) -> Floats:
        """What they stand for, float32 [out, groups]: level · scale of its block, plus the offset."""
        block = np.arange(self.codes.size) // SCALES_PER_BLOCK
        values = dynamic_levels()[self.codes.reshape(-1)] * self.scales[block]
        values += self.offset
        return values.reshape(self.codes.shape)


def largest(weight: Floats, group_size: int) -> Floats:
    """The largest magnitude of each group [rows, groups]; 0 is a whole row, and the last may be short."""
    starts = np.arange(0, weight.shape[1], group_size or weight.shape[1])
    found: Floats = np.maximum.reduceat(np.abs(weight), starts, axis=1)
    return found


def double(scales: Floats) -> DoubleScales:
    """Scales [out, groups], less their mean, in blocks of 256 of them to 8-bit codes of the dynamic type."""
    flat = scales.reshape(-1)
    offset = np.array([flat.mean(dtype=np.float64)], np.float32)
    starts = np.arange(0, flat.size, SCALES_PER_BLOCK)
    steps = np.maximum.reduceat(np.abs(flat - offset), starts)
    steps[steps == 0] = 1.0
    block = np.arange(flat.size) // SCALES_PER_BLOCK
    codes = nearest(np.asarray((flat - offset) / steps[block], np.float32), dynamic_levels())
    return DoubleScales(codes.reshape(scales.shape), steps, offset)


def scales_of(largest_magnitudes: Floats, form: WeightFormat) -> Floats:
    """The scale of each group, of its largest magnitude; of an empty one 1, so that zeros stay zeros."""
    scales = largest_magnitudes / np.float32(E4M3_LARGEST if form.numeric == "fp8_e4m3" else 1.0)
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    return scales


def encode(weight: Floats, scales: Floats, form: WeightFormat) -> Codes:
    """Codes uint8 [rows, in] of the levels that are nearest to weight / scale."""
    size = form.group_size or weight.shape[1]
    group = np.arange(weight.shape[1]) // size
    # A scale of 0, which double quantization can give, leaves nothing to choose.
    safe = np.where(scales == 0, np.float32(1), scales)
    values = np.asarray(weight / safe[:, group], np.float32)
    return to_e4m3(values) if form.numeric == "fp8_e4m3" else nearest(values, levels("nf4"))


def nearest(values: Floats, table: Floats) -> Codes:
    """The place of the level of an ascending ``table`` that is nearest; the lower one half way."""
    middles = (table[1:] + table[:-1]) / np.float32(2)
    return np.searchsorted(middles, values, side="left").astype(np.uint8)


def to_e4m3(values: Floats) -> Codes:
    """E4M3 bytes of float32 values, rounded to nearest, ties to even, at most ±448."""
    magnitude = np.minimum(np.abs(values), np.float32(E4M3_LARGEST))
    # Below 2^-6 numbers are multiples of 2^-9; their codes are how many, and 8 is the first number above.
    small = np.rint(magnitude * np.float32(2**9)).astype(np.uint32)
    # Above, three bits of the mantissa are kept; what is cut off rounds to nearest and may carry.
    bits = np.ascontiguousarray(magnitude).view(np.uint32)
    bits = (bits + np.uint32((1 << 19) - 1) + (bits >> np.uint32(20) & np.uint32(1))) >> np.uint32(20)
    codes = np.where(magnitude < np.float32(2**-6), small, bits - np.uint32((127 - 7) << 3))
    return codes.astype(np.uint8) | (np.signbit(values).astype(np.uint8) << np.uint8(7))
