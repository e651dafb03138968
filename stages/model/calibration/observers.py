"""Observers: from the values that an activation takes, streamed in batches, to the range that its codes span.

What is kept of the values is a histogram whose bins are a power of two wide, as narrow as the largest value
allows. Two such histograms merge without rounding, so batches may come in any size and order. From it come:

* `minmax`: the whole range;
* `percentile`: the mean over batches of each batch's outer percentiles (a moving average, which one odd
  batch hardly moves);
* `entropy`: the clipping whose 128 levels lose the least information, by the Kullback-Leibler divergence
  (Migacz, "8-bit inference with TensorRT", GTC 2017);
* `mse`: the clipping with the least squared error, each end by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ....artifacts.errors import StageError
from ..quantized import ActivationGrid

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Counts = npt.NDArray[np.int64]

ObserverKind = Literal["minmax", "percentile", "entropy", "mse"]
OBSERVERS: tuple[ObserverKind, ...] = ("minmax", "percentile", "entropy", "mse")

BINS = 1 << 16
MIDDLE = BINS // 2
# Values of this many are turned into bins at a time: the buffers stay in a core's cache.
CHUNK = 1 << 18
# TensorRT's own: bins of magnitudes, and levels of one sign.
ENTROPY_BINS, ENTROPY_LEVELS = 2048, 128
# Clipping to a 32nd of the range in steps of an eighth of a power of two; what is clipped more was no range.
CLIP_STEPS, STEPS_PER_HALF = 41, 8
# The exponent of the smallest float32 above zero.
LEAST_EXPONENT = math.frexp(math.ldexp(1.0, -149))[1] - (MIDDLE.bit_length() - 1)


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values were where. Bin i counts those in [(i − MIDDLE)·2^exponent, one width further).

    counts: int64 [BINS].  low, high: the least and the largest value.  exponent: the least with which all
    values have a bin.
    """

    exponent: int
    counts: Counts
    low: float
    high: float

    @property
    def width(self) -> float:
        """What a bin spans."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """The middle of each bin: float64 [BINS]."""
        return (np.arange(BINS, dtype=np.float64) - MIDDLE + 0.5) * self.width


@dataclass(frozen=True, eq=False)
class Statistic:
    """What is known of an activation. tails: the mean of batches' outer percentiles, low and high."""

    histogram: Histogram
    tails: tuple[float, float]
    batches: int


def histogram(values: Floats) -> Histogram:
    """The histogram of values of any shape, at least one; raises StageError for NaN and infinity."""
    flat = values.reshape(-1)
    low, high = float(flat.min()), float(flat.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise StageError(
            "an activation is not finite (NaN or infinity)",
            fix="check the checkpoint: its float32 forward pass must give finite values",
        )
    exponent = _exponent(low, high)
    counts = np.zeros(BINS, np.int64)
    for start in range(0, len(flat), CHUNK):
        # In float64, which a power of two scales exactly.
        places = np.floor(flat[start : start + CHUNK] * np.float64(math.ldexp(1.0, -exponent)))
        counts += np.bincount(places.astype(np.int64) + MIDDLE, minlength=BINS)
    return Histogram(exponent, counts, low, high)


def merge(first: Histogram, second: Histogram) -> Histogram:
    """The histogram of all values together, the same as if they had come at once."""
    exponent = max(first.exponent, second.exponent)
    counts = _widened(first, exponent) + _widened(second, exponent)
    return Histogram(exponent, counts, min(first.low, second.low), max(first.high, second.high))


def observe(values: Floats, percentile: float) -> Statistic:
    """The statistic of one batch.

    percentile: of the values, how many in a hundred lie within the tails; half of the rest on either side.
    """
    found = histogram(values)
    share = (1 - percentile / 100) / 2
    return Statistic(found, (quantile(found, share), quantile(found, 1 - share)), 1)


def combine(first: Statistic, second: Statistic) -> Statistic:
    """The statistic of both's batches, in whatever order they come."""
    batches = first.batches + second.batches
    low, high = (
        (one * first.batches + other * second.batches) / batches
        for one, other in zip(first.tails, second.tails, strict=True)
    )
    return Statistic(merge(first.histogram, second.histogram), (low, high), batches)


def quantile(found: Histogram, share: float) -> float:
    """The value that a ``share`` of all lies below, interpolated within its bin."""
    total = np.cumsum(found.counts)
    target = share * total[-1]
    place = int(np.searchsorted(total, target))
    before = total[place - 1] if place else 0
    inside = (target - before) / found.counts[place] if found.counts[place] else 0.0
    return float(np.clip((place - MIDDLE + inside) * found.width, found.low, found.high))


def grid(statistic: Statistic, kind: ObserverKind, *, sym: bool) -> ActivationGrid:
    """The grid of an activation by an observer. sym: the zero point is the middle code."""
    found = statistic.histogram
    match kind:
        case "minmax":
            span = (found.low, found.high)
        case "percentile":
            span = statistic.tails
        case "entropy":
            limit = entropy_limit(magnitudes(found), found.width * (MIDDLE // ENTROPY_BINS))
            span = (max(found.low, -limit), min(found.high, limit))
        case "mse":
            return least_squares(found, sym=sym)
    return spanning(*span, sym=sym)


def spanning(low: float, high: float, *, sym: bool) -> ActivationGrid:
    """The grid whose codes reach from low to high, zero among them (arXiv:1712.05877, section 2.1)."""
    low, high = min(low, 0.0), max(high, 0.0)
    if sym:
        scale = float(np.float32(max(-low, high) / 127))
        return ActivationGrid(scale if scale > 0 else 1.0, 128)
    scale = float(np.float32((high - low) / 255))
    return ActivationGrid(scale, round(-low / scale)) if scale > 0 else ActivationGrid(1.0, 0)


def magnitudes(found: Histogram) -> Counts:
    """int64 [ENTROPY_BINS]: how often magnitudes were where."""
    folded = found.counts[MIDDLE:] + found.counts[:MIDDLE][::-1]
    total: Counts = folded.reshape(ENTROPY_BINS, -1).sum(axis=1)
    return total


def entropy_limit(counts: Counts, width: float) -> float:
    """The magnitude to clip at: of all numbers of bins, the one with the least divergence.

    counts: int64 [n] of magnitudes in bins of ``width``.  The reference P is the first bins with all that is
    clipped in the last; the candidate Q is these bins, without the clipped, in 128 levels, each spread evenly
    over those of its bins that are not empty.
    """
    used = int(np.flatnonzero(counts)[-1]) + 1
    best, limit = math.inf, used
    for size in range(min(ENTROPY_LEVELS, used), used + 1):
        found = divergence(counts, size, ENTROPY_LEVELS)
        if found < best:
            best, limit = found, size
    return limit * width


def divergence(counts: Counts, size: int, levels: int) -> float:
    """D(P ‖ Q) for the first ``size`` bins in so many levels, in nats; infinite where Q lacks what P has."""
    kept = counts[:size].astype(np.float64)
    reference = kept.copy()
    reference[-1] += counts[size:].sum()
    edges = np.arange(min(levels, size)) * size // min(levels, size)
    filled = np.add.reduceat((kept > 0).astype(np.float64), edges)
    level = np.divide(np.add.reduceat(kept, edges), filled, out=np.zeros(len(edges)), where=filled > 0)
    candidate = np.repeat(level, np.diff(np.append(edges, size)))
    candidate[kept == 0] = 0
    present = reference > 0
    if (candidate[present] == 0).any():
        return math.inf
    p, q = reference[present] / reference.sum(), candidate[present] / candidate.sum()
    return float(p @ np.log(p / q))


def least_squares(found: Histogram, *, sym: bool) -> ActivationGrid:
    """The grid with the least squared error: both ends clipped alike at first, then each by itself."""
    used = np.flatnonzero(found.counts)
    centres, counts = found.centres[used], found.counts[used].astype(np.float64)
    ratios = np.exp2(-np.arange(CLIP_STEPS) / STEPS_PER_HALF)
    low, high = min(found.low, 0.0), max(found.high, 0.0)

    def error(chosen: tuple[float, float]) -> float:
        form = spanning(*chosen, sym=sym)
        codes = np.clip(np.rint(centres / form.scale) + form.zero, 0, 255)
        lost = (codes - form.zero) * form.scale - centres
        return float(counts @ (lost * lost))

    ends = min(((low * ratio, high * ratio) for ratio in ratios), key=error)
    if not sym:
        ends = min([ends, *((low * ratio, ends[1]) for ratio in ratios)], key=error)
        ends = min([ends, *((ends[0], high * ratio) for ratio in ratios)], key=error)
    return spanning(*ends, sym=sym)


def _exponent(low: float, high: float) -> int:
    """The least exponent with which every value up to the largest magnitude has a bin."""
    largest = max(-low, high)
    if largest == 0:
        return LEAST_EXPONENT
    # frexp: largest = m·2^e with m < 1, so largest / 2^e·MIDDLE lies below MIDDLE, as the last bin must.
    return math.frexp(largest)[1] - (MIDDLE.bit_length() - 1)


def _widened(found: Histogram, exponent: int) -> Counts:
    """Counts in bins of 2^exponent: bins side by side added, about the middle."""
    steps = min(exponent - found.exponent, MIDDLE.bit_length() - 1)
    if steps == 0:
        return found.counts
    merged = found.counts.reshape(-1, 1 << steps).sum(axis=1)
    half, counts = MIDDLE >> steps, np.zeros(BINS, np.int64)
    counts[MIDDLE - half : MIDDLE + half] = merged
    return counts
