"""Observers against hand-worked examples, published optima and plain searches over the values themselves."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ingot.artifacts.errors import StageError
from ingot.stages.model.calibration.observers import (
    BINS,
    MIDDLE,
    OBSERVERS,
    combine,
    divergence,
    entropy_limit,
    grid,
    histogram,
    merge,
    observe,
    quantile,
    spanning,
)
from numpy.testing import assert_array_equal

FLOATS = arrays(
    np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def statistic(*batches: Any, percentile: float = 99.9) -> Any:
    return functools.reduce(
        combine, (observe(np.asarray(batch, np.float32), percentile) for batch in batches)
    )


def rounded(values: Any, form: Any) -> Any:
    codes = np.clip(np.rint(values / form.scale) + form.zero, 0, 255)
    return (codes - form.zero) * form.scale


def test_a_histogram_counts_values_in_bins_a_power_of_two_wide() -> None:
    found = histogram(np.array([[1.0, 0.0], [-0.25, 1.0]], np.float32))
    # 1.0 needs 2^15 bins of one sign to end above it, so they are 2^-14 wide.
    assert found.width == 2.0**-14
    assert found.counts[MIDDLE + 2**14] == 2
    assert found.counts[MIDDLE] == 1
    assert found.counts[MIDDLE - 2**12] == 1
    assert (found.counts.sum(), found.low, found.high) == (4, -0.25, 1.0)


@given(FLOATS, FLOATS)
def test_histograms_merge_to_that_of_all_values(first: Any, second: Any) -> None:
    apart, at_once = merge(histogram(first), histogram(second)), histogram(np.concatenate([first, second]))
    assert (apart.exponent, apart.low, apart.high) == (at_once.exponent, at_once.low, at_once.high)
    assert_array_equal(apart.counts, at_once.counts)


@given(FLOATS)
def test_every_value_lies_in_its_bin(values: Any) -> None:
    found = histogram(values)
    for value in values.astype(np.float64):
        place = math.floor(value / found.width) + MIDDLE
        assert 0 <= place < BINS
        assert found.counts[place] >= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(StageError, match="not finite"):
        histogram(np.array([0.0, bad], np.float32))


def test_quantiles_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).normal(size=10001).astype(np.float32)
    found = histogram(values)
    for share in (0.0, 0.001, 0.25, 0.5, 0.999, 1.0):
        assert quantile(found, share) == pytest.approx(np.quantile(values, share), abs=2e-3)


def test_the_grid_of_the_whole_range() -> None:
    form = grid(statistic([-1.0, 0.5], [4.1, 0.0]), "minmax", sym=False)
    # 255 steps from -1 to 4.1 are 0.02 each, and 0 is the fiftieth.
    assert form.scale == pytest.approx(0.02)
    assert form.zero == 50
    form = grid(statistic([-1.0, 0.5], [4.1, 0.0]), "minmax", sym=True)
    assert (form.scale, form.zero) == (pytest.approx(4.1 / 127), 128)


@pytest.mark.parametrize(("low", "high", "zero"), [(1.0, 3.0, 0), (-3.0, -1.0, 255), (0.0, 0.0, 0)])
def test_a_grid_always_has_a_zero(low: float, high: float, zero: int) -> None:
    assert spanning(low, high, sym=False).zero == zero
    assert rounded(np.zeros(1), spanning(low, high, sym=False)) == 0


def test_percentiles_are_averaged_over_batches() -> None:
    ramp = np.linspace(0, 1, 1001)
    found = statistic(ramp, ramp, ramp * 4, percentile=90)
    assert found.tails == (pytest.approx((0.05 + 0.05 + 0.2) / 3, abs=1e-3), pytest.approx(1.9, abs=1e-3))
    form = grid(found, "percentile", sym=False)
    assert (form.scale, form.zero) == (pytest.approx(1.9 / 255, rel=1e-3), 0)


def test_the_divergence_of_the_talks_own_example() -> None:
    # "P has 8 bins, quantized to 2": (1+0+2+3) and (5+3+1+7) spread over bins that are not empty.
    p = np.array([1, 0, 2, 3, 5, 3, 1, 7])
    q = np.array([2, 0, 2, 2, 4, 4, 4, 4])
    expected = sum(a / 22 * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    assert divergence(p, 8, 2) == pytest.approx(expected)
    # Clipped to 4 bins, P's last has the other 16 as well, and Q does not.
    p, q = np.array([1, 0, 2, 19]) / 22, np.array([1, 0, 2.5, 2.5]) / 6
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    assert divergence(np.array([1, 0, 2, 3, 5, 3, 1, 7]), 4, 2) == pytest.approx(expected)


def test_a_candidate_that_lacks_what_is_clipped_is_infinitely_far() -> None:
    assert divergence(np.array([4, 4, 4, 0, 9]), 4, 2) == math.inf


def plain_entropy_limit(counts: list[int]) -> int:
    """The search as the talk words it, in plain loops."""
    best, limit = math.inf, len(counts)
    for size in range(128, len(counts) + 1):
        reference = [float(count) for count in counts[:size]]
        reference[-1] += sum(counts[size:])
        candidate = [0.0] * size
        for level in range(128):
            span = range(level * size // 128, (level + 1) * size // 128)
            full = [place for place in span if counts[place]]
            for place in full:
                candidate[place] = sum(counts[each] for each in span) / len(full)
        if any(p and not q for p, q in zip(reference, candidate, strict=True)):
            continue
        p_sum, q_sum = sum(reference), sum(candidate)
        far = sum(
            p / p_sum * math.log((p / p_sum) / (q / q_sum))
            for p, q in zip(reference, candidate, strict=True)
            if p
        )
        if far < best:
            best, limit = far, size
    return limit


def test_entropy_clips_where_a_plain_search_does() -> None:
    values = np.abs(np.random.default_rng(0).laplace(size=20000))
    counts, _ = np.histogram(values, bins=300, range=(0, values.max()))
    assert entropy_limit(counts, 1.0) == plain_entropy_limit(counts.tolist()) < 300


def test_entropy_clips_outliers_that_the_whole_range_keeps() -> None:
    values = np.random.default_rng(0).normal(size=50000).astype(np.float32)
    values[0] = 60
    found = statistic(values)
    assert grid(found, "minmax", sym=True).scale == pytest.approx(60 / 127)
    assert grid(found, "entropy", sym=True).scale < 10 / 127


def test_least_squares_clips_laplace_values_where_they_ought_to_be() -> None:
    # Banner et al. (arXiv:1810.05723), table 1: with 8 bits at 9.89 b.
    values = np.random.default_rng(0).laplace(size=2_000_000).astype(np.float32)
    assert grid(statistic(values), "mse", sym=True).scale * 127 == pytest.approx(9.89, rel=0.06)


@pytest.mark.parametrize("sym", [True, False])
def test_least_squares_is_about_as_good_as_the_best_of_a_fine_search(sym: bool) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.5, 1, 4000), rng.normal(0, 12, 40), [-90.0, 30.0]])
    values = values.astype(np.float32)

    def error(low: float, high: float) -> float:
        return float(((rounded(values, spanning(low, high, sym=sym)) - values) ** 2).sum())

    shares = np.linspace(0.05, 1, 60)
    best = min(error(-90 * low, 30 * high) for low, high in itertools.product(shares, shares))
    found = rounded(values, grid(statistic(values), "mse", sym=sym))
    assert ((found - values) ** 2).sum() <= 1.05 * best


@pytest.mark.parametrize("kind", OBSERVERS)
@pytest.mark.parametrize("sym", [True, False])
def test_values_that_are_all_zero_stay_zero(kind: Any, sym: bool) -> None:
    form = grid(statistic(np.zeros(10)), kind, sym=sym)
    assert form.scale == 1.0
    assert_array_equal(rounded(np.zeros(3), form), 0)


@pytest.mark.parametrize("kind", OBSERVERS)
def test_values_above_zero_take_every_code(kind: Any) -> None:
    values = np.abs(np.random.default_rng(0).normal(size=5000)).astype(np.float32)
    form = grid(statistic(values), kind, sym=False)
    assert form.zero == 0
    assert 2 < form.scale * 255 <= values.max() * 1.001
