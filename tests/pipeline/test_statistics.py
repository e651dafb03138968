"""The intervals behind the gate: against scipy, against hand-worked cases, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline import statistics
from ingot.pipeline.statistics import Estimate


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 200, 201, 5000])
@pytest.mark.parametrize("p", [0.9, 0.95, 0.975, 0.995])
def test_t_quantiles_are_those_of_scipy(p: float, freedom: int) -> None:
    assert statistics.t_quantile(p, freedom) == pytest.approx(scipy.stats.t.ppf(p, freedom), rel=1e-6)


@given(st.integers(1, 60), st.floats(0, 30))
def test_t_probabilities_are_those_of_scipy(freedom: int, t: float) -> None:
    assert statistics.t_cdf(t, freedom) == pytest.approx(scipy.stats.t.cdf(t, freedom), abs=1e-9)


@given(st.integers(1, 200), st.floats(0.001, 0.999), st.data())
def test_binomial_tails_are_those_of_scipy(n: int, p: float, data: st.DataObject) -> None:
    least = data.draw(st.integers(0, n))
    assert statistics.binomial_tail(n, p, least) == pytest.approx(
        scipy.stats.binom.sf(least - 1, n, p), abs=1e-9
    )


def test_samples_are_added_up_by_document() -> None:
    sums = statistics.sum_by_cluster([7, 3, 7], [[1, 10, 100], [2, 2, 2]])
    assert sums.tolist() == [[10, 2], [101, 4]]


def test_every_resample_draws_as_many_documents_as_there_are() -> None:
    sums = np.stack([np.ones(9), np.arange(9.0)], axis=1)
    resampled = statistics.resampled_sums(sums, seed=3, resamples=500)
    assert set(resampled[:, 0]) == {9.0}
    assert resampled[:, 1].mean() == pytest.approx(36, abs=1.5)
    assert resampled[:, 1].std() == pytest.approx(math.sqrt(9 * np.arange(9).var()), rel=0.15)


def test_resampling_in_blocks_covers_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).normal(size=(5, 2))
    monkeypatch.setattr(statistics, "BLOCK", 35)
    assert statistics.resampled_sums(sums, seed=1, resamples=50).shape == (50, 2)


def ratio(sums: statistics.Array) -> statistics.Array:
    return sums[..., 0] / sums[..., 1]


def test_two_documents_are_worked_out_by_hand() -> None:
    # Ratios 1 and 3 with equal weights: the ratio is 2, leaving either out gives 3 or 1, so the jackknife's
    # error is sqrt(1/2 * (1 + 1)) = 1, and t(0.95, one degree) = tan(0.45 pi) = 6.3138.
    sums = np.array([[10.0, 10.0], [30.0, 10.0]])
    found = statistics.cluster_interval(sums, statistics.resampled_sums(sums, 0, 200), ratio)
    reach = math.tan(0.45 * math.pi)
    assert found == Estimate(2.0, pytest.approx(2 - reach), pytest.approx(2 + reach), 2)


def test_one_document_has_no_interval() -> None:
    sums = np.array([[10.0, 4.0]])
    found = statistics.cluster_interval(sums, statistics.resampled_sums(sums, 0, 10), ratio)
    assert found == Estimate(2.5, None, None, 1)


def test_documents_without_any_spread_have_an_interval_of_no_width() -> None:
    sums = np.array([[2.0, 4.0]] * 8)
    found = statistics.cluster_interval(sums, statistics.resampled_sums(sums, 0, 100), ratio)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_with_many_documents_the_interval_is_that_of_the_normal_approximation() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(1.0, 0.2, 800)
    sums = np.stack([values, np.ones(800)], axis=1)
    found = statistics.cluster_interval(sums, statistics.resampled_sums(sums, 1), ratio)
    reach = 1.645 * values.std(ddof=1) / math.sqrt(800)
    assert found.low == pytest.approx(values.mean() - reach, abs=0.1 * reach)
    assert found.high == pytest.approx(values.mean() + reach, abs=0.1 * reach)


@pytest.mark.parametrize(("documents", "most"), [(4, 0.09), (12, 0.085), (40, 0.075)])
def test_each_bound_misses_the_truth_about_as_seldom_as_alpha_says(documents: int, most: float) -> None:
    generator = np.random.default_rng(11)
    trials, too_low, too_high = 600, 0, 0
    for seed in range(trials):
        tokens = generator.integers(50, 800, documents).astype(float)
        sums = np.stack([tokens * generator.normal(0.01, 0.03, documents), tokens], axis=1)
        found = statistics.cluster_interval(sums, statistics.resampled_sums(sums, seed, 400), ratio)
        too_low += found.high < 0.01
        too_high += found.low > 0.01
    assert max(too_low, too_high) / trials <= most


def test_windows_of_one_document_do_not_count_as_independent() -> None:
    # Twenty windows a document that all agree carry no more information than one.
    generator = np.random.default_rng(2)
    deltas = generator.normal(0, 1, 15)
    alone = statistics.sum_by_cluster(range(15), [deltas, np.ones(15)])
    cluster = np.repeat(np.arange(15), 20)
    many = statistics.sum_by_cluster(cluster, [np.repeat(deltas, 20), np.ones(300)])
    widths = []
    for sums in (alone, many):
        found = statistics.cluster_interval(sums, statistics.resampled_sums(sums, 4), ratio)
        widths.append(found.high - found.low)
    assert widths[0] == pytest.approx(widths[1])


def test_the_bootstrap_of_a_median_is_what_resampling_gives() -> None:
    generator = np.random.default_rng(8)
    samples = generator.gamma(3, 1, 25)
    share = statistics.widened_alpha(25, 0.05)
    medians = np.median(generator.choice(samples, (60_000, 25)), axis=1)
    found = statistics.median_interval(samples.tolist())
    assert found.value == np.median(samples)
    assert found.low == np.quantile(medians, share, method="inverted_cdf")
    assert found.high == np.quantile(medians, 1 - share, method="inverted_cdf")


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=30), st.randoms())
def test_a_median_lies_in_its_interval_whatever_the_order(samples: list[float], random: object) -> None:
    found = statistics.median_interval(samples)
    shuffled = samples.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert statistics.median_interval(shuffled) == found
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("count", [3, 5, 12])
def test_each_bound_of_a_median_misses_about_as_seldom_as_alpha_says(count: int) -> None:
    generator = np.random.default_rng(6)
    trials, too_low, too_high = 2000, 0, 0
    for _ in range(trials):
        found = statistics.median_interval(generator.normal(0, 1, count).tolist())
        too_low += found.high < 0
        too_high += found.low > 0
    assert max(too_low, too_high) / trials <= 0.075


@pytest.mark.parametrize("count", [3, 5, 20])
def test_each_bound_of_a_ratio_of_medians_misses_about_as_seldom_as_alpha_says(count: int) -> None:
    generator = np.random.default_rng(7)
    trials, too_low, too_high = 500, 0, 0
    for seed in range(trials):
        load = generator.gamma(2, 0.2, count)
        reference, value = (10 * (1 + load + generator.normal(0, 0.02, count)) for _ in range(2))
        found = statistics.median_ratio_interval(reference.tolist(), (value / 2).tolist(), seed)
        too_low += found.high < -0.5
        too_high += found.low > -0.5
    assert max(too_low, too_high) / trials <= 0.075


def test_one_outlier_among_many_repeats_does_not_widen_the_interval_of_a_median() -> None:
    calm = statistics.median_interval([10 + 0.1 * i for i in range(15)])
    shaken = statistics.median_interval([10 + 0.1 * i for i in range(14)] + [1000.0])
    assert shaken.high - shaken.low == pytest.approx(calm.high - calm.low)


def test_four_times_the_documents_halve_an_interval() -> None:
    # The bound must come from 0.03 above the estimate to 0.015: four times the documents.
    assert statistics.clusters_to_decide(Estimate(0.01, -0.02, 0.04, 50), 0.025) == 200


def test_nothing_decides_a_difference_that_lies_on_the_limit() -> None:
    assert statistics.clusters_to_decide(Estimate(0.01, 0.0, 0.02, 50), 0.01) is None
