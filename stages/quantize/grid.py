"""Rounding to a uniform grid: scales, zero points and codes of a weight matrix, as pure numpy functions.

A weight w is stored as an unsigned code q with w ≈ (q − zero) · scale, 0 ≤ q < 2^bits, one scale and zero
for each group of consecutive input features of a row (Jacob et al. 2018, arXiv:1712.05877, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Codes = npt.NDArray[np.uint8]

# How scales are found: spanning a group, clipped for the least error, or, of fp8, spanning the whole weight.
ScaleSearch = Literal["minmax", "mse", "tensor"]

# The strongest clipping worth trying: the optimum for Gaussian weights moves inwards as bits fall, and a
# group of 16 to 256 values never wants less than this share of its range.
LOWEST_CLIP = {8: 0.90, 4: 0.60, 3: 0.45, 2: 0.30}
CANDIDATES = 16


@dataclass(frozen=True)
class Grid:
    """codes: uint8 [rows, in]; scales: float32 [rows, groups]; zeros: uint8 [rows, groups]."""

    codes: Codes
    scales: Floats
    zeros: Codes


def group_count(in_features: int, group_size: int) -> int:
    """How many groups a row has; ``group_size`` 0 is one group, and the last group may be short."""
    return -(-in_features // group_size) if group_size else 1


def round_to_nearest(weight: Floats, bits: int, group_size: int, *, sym: bool, search: ScaleSearch) -> Grid:
    """The codes of ``weight`` [rows, in] at ``bits`` 2, 3, 4 or 8.

    search `minmax` spans each group's range exactly; `mse` tries 16 clipping ratios of it and keeps the one
    with the least squared error in each group.
    """
    import numpy as np

    rows, width = weight.shape
    groups = group_count(width, group_size)
    size = group_size or width
    grouped = np.zeros((rows, groups * size), dtype=np.float32)
    grouped[:, :width] = weight
    # The zeros that fill a short last group lie exactly on every grid: they change no scale and no error.
    values = grouped.reshape(rows * groups, size)
    low, high = spans(values, sym=sym)
    clip = best_clip(values, low, high, bits, sym=sym) if search == "mse" else np.float32(1.0)
    scales, zeros = affine(low * clip, high * clip, bits, sym=sym)
    codes = encode(values, scales, zeros, bits)
    return Grid(
        codes.reshape(rows, -1)[:, :width].astype(np.uint8),
        scales.reshape(rows, groups),
        zeros.reshape(rows, groups).astype(np.uint8),
    )


def spans(values: Floats, *, sym: bool) -> tuple[Floats, Floats]:
    """The range of each group [groups], always holding zero; ``sym`` makes it symmetric."""
    import numpy as np

    low = np.minimum(values.min(axis=1), 0, dtype=np.float32)
    high = np.maximum(values.max(axis=1), 0, dtype=np.float32)
    if sym:
        high = np.maximum(-low, high)
        low = -high
    return low, high


def affine(low: Floats, high: Floats, bits: int, *, sym: bool) -> tuple[Floats, Floats]:
    """Scale and zero point, both float32 [groups], that map the range to codes.

    Symmetric: zero = 2^(bits−1) and ±high are codes 2^(bits−1) ± (2^(bits−1) − 1). An empty range gets
    scale 1, so that its zeros stay zeros.
    """
    import numpy as np

    if sym:
        scales = high / np.float32(2 ** (bits - 1) - 1)
        scales[scales < np.finfo(np.float32).tiny] = 1.0
        return scales, np.full_like(scales, 2 ** (bits - 1))
    scales = (high - low) / np.float32(2**bits - 1)
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    return scales, np.clip(np.rint(-low / scales), 0, 2**bits - 1).astype(np.float32)


def encode(values: Floats, scales: Floats, zeros: Floats, bits: int) -> Floats:
    """Codes as float32 [groups, size]: round(value / scale) + zero, kept inside 0 … 2^bits − 1."""
    import numpy as np

    codes = values * (1.0 / scales)[:, None]
    np.rint(codes, out=codes)
    codes += zeros[:, None]
    np.clip(codes, 0, 2**bits - 1, out=codes)
    return codes


def best_clip(values: Floats, low: Floats, high: Floats, bits: int, *, sym: bool) -> Floats:
    """The clipping ratio in (0, 1] of each group [groups] with the least squared rounding error."""
    import numpy as np

    best = np.ones(len(values), dtype=np.float32)
    least = np.full(len(values), np.inf, dtype=np.float32)
    scaled, codes = np.empty_like(values), np.empty_like(values)
    for ratio in np.linspace(1.0, LOWEST_CLIP[bits], CANDIDATES, dtype=np.float32):
        scales, zeros = affine(low * ratio, high * ratio, bits, sym=sym)
        np.multiply(values, (1.0 / scales)[:, None], out=scaled)
        np.rint(scaled, out=codes)
        np.clip(codes, -zeros[:, None], (2**bits - 1 - zeros)[:, None], out=codes)
        codes -= scaled
        error = np.einsum("ij,ij->i", codes, codes) * scales * scales
        better = error < least
        least[better] = error[better]
        best[better] = ratio
    return best
