"""One threshold of magnitude for many weights, found without holding them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Bits = npt.NDArray[np.uint32]

HALF = np.uint32(16)
LOWER = np.uint32(0xFFFF)


class Threshold:
    """One limit for many weights, under which exactly ``count`` of all their entries go.

    names: of the weights.  read: gives one, float32; each is read three times. The magnitudes of finite
    float32 are ordered as the whole numbers that their bits spell, so two histograms of 16 bits each find the
    limit without holding or sorting the weights. Of entries at the limit those that come first go.
    """

    def __init__(self, names: Iterable[str], read: Callable[[str], Floats], count: int) -> None:
        names = tuple(names)
        upper = np.zeros(1 << 16, np.int64)
        for name in names:
            upper += np.bincount(_magnitudes(read(name)) >> HALF, minlength=1 << 16)
        high, left = _bucket(upper, count)
        lower = np.zeros(1 << 16, np.int64)
        for name in names:
            bits = _magnitudes(read(name))
            lower += np.bincount(bits[bits >> HALF == high] & LOWER, minlength=1 << 16)
        low, left = _bucket(lower, left)
        self._limit = np.uint32(high << 16 | low)
        self._ties: Mapping[str, int] = {}
        for name in names:
            own = min(left, int(np.count_nonzero(_magnitudes(read(name)) == self._limit)))
            self._ties = {**self._ties, name: own}
            left -= own

    def prune(self, name: str, weight: Floats) -> Floats:
        """The weight of that name without what goes."""
        bits = _magnitudes(weight)
        gone = bits < self._limit
        gone[np.flatnonzero(bits == self._limit)[: self._ties[name]]] = True
        found = weight.copy()
        found.reshape(-1)[gone] = 0.0
        return found


def _magnitudes(weight: Floats) -> Bits:
    bits: Bits = weight.reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return bits


def _bucket(histogram: npt.NDArray[np.int64], count: int) -> tuple[int, int]:
    """Where the ``count``th entry lies, and which of that bucket it is; 0 and 0 where none goes."""
    if count == 0:
        return 0, 0
    found = int(np.searchsorted(histogram.cumsum(), count))
    return found, count - int(histogram[:found].sum())
