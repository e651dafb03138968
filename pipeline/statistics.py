"""Intervals for paired measurements: a cluster bootstrap over documents, and medians of repeats.

All intervals are two-sided at 1 - 2 * alpha, so that each bound is a one-sided one at alpha: an artifact
whose upper bound stays below a limit is non-inferior at level alpha (Piaggio et al., CONSORT 2012).

The bootstrap resamples documents, since the windows of a document are not independent (Davison and Hinkley,
Bootstrap Methods, 1997, section 3.8). Its plain percentile interval is too short when documents are few; two
known remedies are applied: quantiles widened as Hesterberg (The American Statistician 69, 2015, section 5.4)
does, and never a narrower interval than Student's t with the jackknife's standard error gives.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from statistics import NormalDist, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Statistic = Callable[[Array], Array]

RESAMPLES = 10_000
# Of medians, which take a sort each: enough for a bound to move by less than a tenth of the interval.
MEDIAN_RESAMPLES = 2_000
ALPHA = 0.05
# Bounds the memory of a bootstrap: draws are made for so many clusters times resamples at once.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; the bounds are None when the samples allow none (fewer than two)."""

    value: float
    low: float | None
    high: float | None
    clusters: int


def exact(value: float) -> Estimate:
    """A number without sampling error, such as a size in bytes."""
    return Estimate(value, value, value, 1)


def sum_by_cluster(cluster: Sequence[int], columns: Sequence[Sequence[float]]) -> Array:
    """Sums of columns within clusters: [clusters, columns], float64, clusters by ascending label."""
    import numpy as np

    places = {label: place for place, label in enumerate(sorted(set(cluster)))}
    index = [places[label] for label in cluster]
    sums = [np.bincount(index, weights=np.asarray(column, dtype=float)) for column in columns]
    return np.stack(sums, axis=1)


def resampled_sums(sums: Array, seed: int, resamples: int = RESAMPLES) -> Array:
    """Column sums of bootstrap samples: [resamples, columns] from ``sums`` [clusters, columns].

    Each sample draws as many clusters as there are, with replacement; drawing is counted, so that all
    samples of a block come from one matrix product of counts [block, clusters] with ``sums``.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    clusters = len(sums)
    block = max(1, BLOCK // clusters)
    parts = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = generator.integers(0, clusters, (size, clusters), dtype=np.int32)
        draws += (np.arange(size, dtype=np.int32) * clusters)[:, None]
        counts = np.bincount(draws.ravel(), minlength=size * clusters).reshape(size, clusters)
        parts.append(counts.astype(np.float64) @ sums)
    return np.concatenate(parts)


def cluster_interval(
    sums: Array, resampled: Array, statistic: Statistic, *, alpha: float = ALPHA
) -> Estimate:
    """The statistic of all clusters together with its interval.

    sums: [clusters, columns].  resampled: what :func:`resampled_sums` made of them.  statistic: a function of
    column sums, [..., columns] → [...].
    """
    import numpy as np

    clusters = len(sums)
    total = sums.sum(axis=0)
    value = float(statistic(total))
    if clusters < 2:
        return Estimate(value, None, None, clusters)
    share = widened_alpha(clusters, alpha)
    low, high = _cut(statistic(resampled), share)
    without = statistic(total - sums)
    error = math.sqrt((clusters - 1) / clusters * float(np.sum((without - without.mean()) ** 2)))
    reach = t_quantile(1 - alpha, clusters - 1) * error
    return Estimate(value, min(low, value - reach), max(high, value + reach), clusters)


def _cut(values: Array, share: float) -> tuple[float, float]:
    """The values between which all but ``share`` at either end lie, rounded outwards to values that occur."""
    import numpy as np

    ordered = np.sort(values)
    skipped = math.floor(share * (len(ordered) - 1))
    return float(ordered[skipped]), float(ordered[-1 - skipped])


def median_interval(samples: Sequence[float], *, alpha: float = ALPHA) -> Estimate:
    """The median with its bootstrap interval, exactly: no resampling.

    The bootstrap distribution of a median of n is known: it is at or below the k-th smallest sample with
    the probability that a binomial (n, k/n) reaches (n + 1) / 2 (Efron, Annals of Statistics 7, 1979,
    section 3). For an even n the lower of the two middle samples gives the low bound, the upper the high one.
    """
    ordered = sorted(samples)
    n = len(ordered)
    value = median(ordered)
    if n < 2:
        return Estimate(value, None, None, n)
    share = widened_alpha(n, alpha)
    low = ordered[_first(n, lambda k: binomial_tail(n, k / n, (n + 1) // 2) > share) - 1]
    high = ordered[_first(n, lambda k: binomial_tail(n, k / n, n // 2 + 1) >= 1 - share) - 1]
    return _not_too_sure(Estimate(value, low, high, n), ordered, alpha)


def median_ratio_interval(
    reference: Sequence[float], value: Sequence[float], seed: int, *, alpha: float = ALPHA
) -> Estimate:
    """median(value) / median(reference) - 1 with its interval, from repeats that took turns.

    Pairs are resampled together, so that what slowed a pair down slows both of its sides in every resample.
    """
    import numpy as np

    n = len(value)
    change = median(value) / median(reference) - 1
    if n < 2:
        return Estimate(change, None, None, n)
    draws = np.random.default_rng(seed).integers(0, n, (MEDIAN_RESAMPLES, n))
    sides = [np.sort(np.asarray(side, dtype=float)[draws], axis=1) for side in (value, reference)]
    above, below = (side[:, (n - 1) // 2] + side[:, n // 2] for side in sides)
    share = widened_alpha(n, alpha)
    low, high = (bound - 1 for bound in _cut(above / below, share))
    changes = [b / a - 1 for a, b in zip(reference, value, strict=True)]
    return _not_too_sure(Estimate(change, min(low, change), max(high, change), n), changes, alpha)


def _not_too_sure(estimate: Estimate, samples: Sequence[float], alpha: float) -> Estimate:
    """An interval widened by Student's interval of the samples' mean where the samples are very few: even
    their extremes miss the median more often than alpha then.
    """
    n = len(samples)
    if 0.5**n <= alpha or estimate.low is None or estimate.high is None:
        return estimate
    mean = math.fsum(samples) / n
    variance = math.fsum((sample - mean) ** 2 for sample in samples) / (n - 1)
    reach = t_quantile(1 - alpha, n - 1) * math.sqrt(variance / n)
    return replace(estimate, low=min(estimate.low, mean - reach), high=max(estimate.high, mean + reach))


def _first(n: int, holds: Callable[[int], bool]) -> int:
    """The smallest k in 1..n for which a monotone condition holds; it does for n."""
    below, k = 0, n
    while k - below > 1:
        middle = (below + k) // 2
        below, k = (below, middle) if holds(middle) else (middle, k)
    return k


def binomial_tail(n: int, p: float, least: int) -> float:
    """P(X >= least) for X binomial (n, p)."""
    if p >= 1:
        return 1.0
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(least, n + 1)
    )  # fmt: skip
    return math.fsum(math.exp(term) for term in terms)


def widened_alpha(clusters: int, alpha: float) -> float:
    """The share to cut off a bootstrap distribution of so many clusters, for a bound at ``alpha``.

    Hesterberg's expanded percentile interval: Φ(-√(n / (n - 1)) · t(alpha, n - 1)).
    """
    return NormalDist().cdf(-math.sqrt(clusters / (clusters - 1)) * t_quantile(1 - alpha, clusters - 1))


@functools.cache
def t_quantile(p: float, freedom: int) -> float:
    """The p-quantile, p >= 1/2, of Student's t with a whole number of degrees of freedom.

    Above 200 degrees by the expansion of Abramowitz and Stegun, 26.7.5, whose error is below 1e-7 there.
    """
    if freedom > 200:
        z = NormalDist().inv_cdf(p)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for Student's t: the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    theta = math.atan2(t, math.sqrt(freedom))
    cosine_squared = math.cos(theta) ** 2
    odd = freedom % 2
    total, term = 0.0, math.cos(theta) if odd else 1.0
    for i in range((freedom - odd) // 2):
        total += term
        step = (2 * i + 2) / (2 * i + 3) if odd else (2 * i + 1) / (2 * i + 2)
        term *= step * cosine_squared
    spread = math.sin(theta) * total
    within = (theta + spread) * 2 / math.pi if odd else spread
    return 0.5 + within / 2


def clusters_to_decide(estimate: Estimate, edge: float) -> int | None:
    """About how many clusters would settle on which side of ``edge`` the number lies; None when none would.

    The interval shrinks with the square root of the count; the estimate is taken to stay where it is.
    """
    if estimate.low is None or estimate.high is None or estimate.value == edge:
        return None
    bound = estimate.high if estimate.value < edge else estimate.low
    needed = estimate.clusters * ((bound - estimate.value) / (edge - estimate.value)) ** 2
    return math.ceil(needed) if needed < 1e9 else None
