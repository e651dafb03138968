"""The gate: verdicts on hand-made measurements, on what cannot be judged, and over many simulated builds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ingot.pipeline import gate

if TYPE_CHECKING:
    from types import ModuleType

    from ingot.pipeline.gate import Check, GateReport


def only(report: GateReport) -> Check:
    assert len(report.checks) == 1
    return report.checks[0]


def two_documents(value: tuple[float, float], samples: ModuleType) -> object:
    """Two documents of 100 tokens, one window each, with losses of 3 nats a token in the reference."""
    return samples.quality_of(
        {
            "document": [0, 1],
            "tokens": [100, 100],
            "nll_reference": [300.0, 300.0],
            "nll_value": [300.0 + 100 * math.log1p(change) for change in value],
        }
    )


def test_the_delta_of_two_equal_documents_is_worked_out_by_hand(samples: ModuleType) -> None:
    bounds = samples.bounds(perplexity={"max_increase": "2%"})
    report = gate.evaluate(bounds, two_documents((0.01, 0.01), samples), None)
    metric = report.metrics["perplexity"]
    assert metric.reference == pytest.approx(math.exp(3))
    assert metric.value == pytest.approx(math.exp(3) * 1.01)
    assert (metric.low, metric.delta, metric.high) == (pytest.approx(0.01),) * 3
    assert (metric.n, metric.tokens, metric.documents, metric.unit) == (2, 200, 2, "ppl")
    assert only(report).status == "pass"


def test_the_delta_of_two_unequal_documents_is_worked_out_by_hand(samples: ModuleType) -> None:
    # exp of the mean log change, 1.0 * 1.21 → 1.1; left out, either leaves 1.21 or 1.0, so the jackknife's
    # error is sqrt(1/2 * 2 * 0.105^2) = 0.105, and t(0.95, one degree) = tan(0.45 pi).
    report = gate.evaluate([], two_documents((0.0, 0.21), samples), None)
    metric = report.metrics["perplexity"]
    reach = 0.105 * math.tan(0.45 * math.pi)
    assert metric.delta == pytest.approx(0.1)
    assert metric.low == pytest.approx(0.1 - reach)
    assert metric.high == pytest.approx(0.1 + reach)


def test_an_artifact_equal_to_its_reference_passes_at_a_limit_of_zero(samples: ModuleType) -> None:
    columns = samples.windows()
    columns["nll_value"] = columns["nll_reference"]
    report = gate.evaluate(samples.bounds(perplexity={"max_increase": 0}), samples.quality_of(columns), None)
    assert report.status == "pass"
    assert report.metrics["perplexity"].high == 0


@pytest.mark.parametrize(
    ("change", "status"), [(0.002, "pass"), (0.019, "inconclusive"), (0.05, "fail"), (-0.05, "pass")]
)
def test_an_increase_is_held_against_its_limit(change: float, status: str, samples: ModuleType) -> None:
    quality = samples.quality_of(samples.windows(change=change))
    report = gate.evaluate(samples.bounds(perplexity={"max_increase": "2%"}), quality, None)
    assert report.status == only(report).status == status
    check = only(report)
    assert check.low < check.estimate < check.high


def test_a_decrease_is_held_against_its_limit(samples: ModuleType) -> None:
    quality = samples.quality_of(samples.windows())  # top-1 agreement of about 97 %
    for limit, status in (("5%", "pass"), ("1%", "fail"), ("2.9%", "inconclusive")):
        report = gate.evaluate(samples.bounds(top1={"max_decrease": limit}), quality, None)
        assert only(report).status == status


def test_bounds_on_values_use_the_interval_of_the_value(samples: ModuleType) -> None:
    quality = samples.quality_of(samples.windows(change=0.0))
    metric = gate.evaluate([], quality, None).metrics["perplexity"]
    assert metric.value_low < metric.value < metric.value_high
    # The value itself is known less well than its difference from the reference.
    assert metric.value_high / metric.value - 1 > 3 * (metric.high - metric.delta)
    for limit, status in (
        (metric.value * 1.2, "pass"),
        (metric.value, "inconclusive"),
        (metric.value / 1.2, "fail"),
    ):
        assert gate.evaluate(samples.bounds(perplexity={"max": limit}), quality, None).status == status


def test_a_size_is_exact(samples: ModuleType) -> None:
    report = gate.evaluate(samples.bounds(size={"max": 1000}), None, samples.cost_of({}, size=(4000, 1000)))
    metric = report.metrics["size_bytes"]
    assert (metric.low, metric.delta, metric.high) == (-0.75, -0.75, -0.75)
    assert only(report).status == "pass"
    assert (
        only(gate.evaluate(samples.bounds(size={"max": 999}), None, samples.cost_of({}, (4000, 1000)))).status
        == "fail"
    )
    assert only(
        gate.evaluate(samples.bounds(size={"max_increase": "-70%"}), None, samples.cost_of({}, (4000, 1000)))
    ).status == "pass"  # fmt: skip


def test_what_slows_both_sides_down_does_not_widen_the_interval_of_a_timing(samples: ModuleType) -> None:
    # The machine gets slower and slower, for both sides alike: the artifact takes half as long all the same.
    slow = [10.0 * 1.3**i for i in range(9)]
    cost = samples.cost_of({"prefill_ms": (slow, [ms / 2 for ms in slow])}, (10, 10))
    metric = gate.evaluate([], None, cost).metrics["prefill_ms"]
    assert (metric.low, metric.delta, metric.high) == (pytest.approx(-0.5),) * 3
    assert metric.value_low < metric.value < metric.value_high


def test_a_timing_that_is_not_the_median_of_its_repeats_fails(samples: ModuleType) -> None:
    metrics = {
        "load_ms": {
            "unit": "ms",
            "better": "lower",
            "comparison": "relative",
            "reference": 10,
            "value": 4,
            "n": 3,
        }
    }
    repeats = {"load_ms": {"reference": [9, 10, 11], "value": [5, 6, 7]}}
    report = gate.evaluate([], None, samples.parsed("cost", "causal-lm", metrics, repeats))
    assert only(report).message == "load_ms: its value is not the median of its repeats"


def test_one_repeat_gives_no_interval_and_no_verdict(samples: ModuleType) -> None:
    cost = samples.cost_of({"load_ms": ([10.0], [9.0])}, (10, 10))
    report = gate.evaluate(samples.bounds(load_ms={"max_increase": "0%"}), None, cost)
    assert (report.metrics["load_ms"].low, report.metrics["load_ms"].high) == (None, None)
    assert only(report).status == "inconclusive"
    assert "one repeat gives no interval" in only(report).message


def test_an_inconclusive_check_says_how_many_documents_would_decide(samples: ModuleType) -> None:
    bounds = samples.bounds(perplexity={"max_increase": "2%"})

    def build(documents: int, seed: int) -> Check:
        columns = samples.windows(documents, change=0.012, spread=0.03, seed=seed)
        return only(gate.evaluate(bounds, samples.quality_of(columns), None, resamples=500))

    few = [build(15, seed) for seed in range(40)]
    undecided = [check for check in few if check.status == "inconclusive"]
    assert len(undecided) > 20
    for check in undecided:
        if check.needed is not None:
            assert f"about {check.needed - 15:,} more document" in check.message
    # With as many documents as builds of this kind ask for in the middle, half of them or more get a verdict;
    # with three times as many nearly all do.
    needed = sorted(check.needed for check in undecided if check.needed)[len(undecided) // 2]
    assert needed > 30
    settled = [build(needed, 100 + seed).status != "inconclusive" for seed in range(30)]
    assert sum(settled) >= 13
    settled = [build(needed * 3, 200 + seed).status != "inconclusive" for seed in range(30)]
    assert sum(settled) >= 26


def broken(column: str, number: float, samples: ModuleType) -> object:
    columns = samples.windows()
    columns[column][7] = number
    return samples.quality_of(columns)


def test_nan_samples_fail(samples: ModuleType) -> None:
    report = gate.evaluate(
        samples.bounds(perplexity={"max_increase": "2%"}), broken("nll_value", math.nan, samples), None
    )
    assert report.status == "fail"
    assert "not a finite number" in report.checks[0].message
    assert report.metrics["perplexity"].delta is None


def test_a_nan_that_no_gate_asks_for_fails_too(samples: ModuleType) -> None:
    report = gate.evaluate(
        samples.bounds(perplexity={"max_increase": "2%"}), broken("kl", math.inf, samples), None
    )
    assert report.status == "fail"
    assert {check.metric for check in report.checks if check.rule == "measured"} == {
        "kl_divergence",
        "top1_agreement",
    }


def test_samples_that_disagree_in_number_fail(samples: ModuleType) -> None:
    columns = samples.windows()
    del columns["kl"][-1]
    report = gate.evaluate(
        samples.bounds(perplexity={"max_increase": "2%"}), samples.quality_of(columns), None
    )
    assert report.status == "fail"
    assert "sample counts disagree" in report.checks[0].message
    assert "kl 239" in report.checks[0].message


def test_values_that_are_not_those_of_the_samples_fail(samples: ModuleType) -> None:
    columns = samples.windows(change=0.05)
    bounds = samples.bounds(perplexity={"max_increase": "2%"})
    flattered = samples.quality_of(columns, perplexity={"value": math.exp(3.0)})
    assert "its value is" in only(gate.evaluate(bounds, flattered, None)).message
    fewer = samples.quality_of(columns, perplexity={"documents": 41})
    assert "its documents is 41" in only(gate.evaluate(bounds, fewer, None)).message


def test_empty_samples_fail(samples: ModuleType) -> None:
    columns = {name: [1.0] for name in ("document", "tokens", "nll_reference", "nll_value")}
    quality = samples.quality_of(columns)
    empty = samples.parsed(
        "quality", "causal-lm", {"perplexity": vars_of(quality)}, {"document": [], "tokens": []}
    )
    assert "there are no samples" in only(gate.evaluate([], empty, None)).message
    nothing = samples.parsed("quality", "causal-lm", {}, {})
    assert gate.evaluate([], nothing, None).status == "fail"


def vars_of(quality: object) -> dict[str, object]:
    metric = quality.metrics["perplexity"]  # type: ignore[attr-defined]
    names = ("unit", "better", "comparison", "reference", "value", "n", "tokens", "documents")
    return {name: getattr(metric, name) for name in names}


@pytest.mark.parametrize(
    ("reference", "value", "reason"),
    [
        ([1.0, 2.0], [1.0], "2 repeats of the reference, 1 of the artifact"),
        ([], [1.0], "not a finite number"),
        ([1.0, 0.0], [1.0, 1.0], "not a finite number above 0"),
        ([1.0, math.nan], [1.0, 1.0], "not a finite number"),
    ],
)
def test_repeats_that_cannot_be_paired_fail(
    reference: list[float], value: list[float], reason: str, samples: ModuleType
) -> None:
    cost = samples.cost_of({"load_ms": (reference, value)}, (10, 10))
    report = gate.evaluate(samples.bounds(size={"max": "1MB"}), None, cost)
    assert report.status == "fail"
    assert reason in report.checks[-1].message


def test_a_metric_that_was_not_measured_fails(samples: ModuleType) -> None:
    report = gate.evaluate(
        samples.bounds(perplexity={"max_increase": "2%"}), None, samples.cost_of({}, (2, 1))
    )
    assert only(report).status == "fail"
    assert only(report).message == "Perplexity was not measured"


def test_without_any_check_nothing_is_verified(samples: ModuleType) -> None:
    assert gate.evaluate([], samples.quality_of(samples.windows()), None).status == "unverified"


def test_encoders_are_judged_by_their_cosine(samples: ModuleType) -> None:
    generator = np.random.default_rng(0)
    columns = {
        "document": np.repeat(np.arange(20), 3).tolist(),
        "tokens": generator.integers(10, 100, 60).tolist(),
        "cosine": (1 - generator.gamma(2, 0.001, 60)).tolist(),
    }
    quality = samples.quality_of(columns, task="encoder")
    assert gate.evaluate(samples.bounds(cosine={"min": 0.99}), quality, None).status == "pass"
    assert gate.evaluate(samples.bounds(cosine={"min": 0.9999}), quality, None).status == "fail"


def test_equal_measurements_give_equal_reports_and_other_ones_other_draws(samples: ModuleType) -> None:
    bounds = samples.bounds(perplexity={"max_increase": "2%"})
    columns = samples.windows()
    first = gate.evaluate(bounds, samples.quality_of(columns), None)
    assert gate.evaluate(bounds, samples.quality_of(columns), None) == first
    columns["kl"][0] += 1.0
    assert (
        gate.evaluate(bounds, samples.quality_of(columns), None).metrics["perplexity"].low
        != first.metrics["perplexity"].low
    )


def test_relative_deltas_are_what_a_reader_computes_from_the_two_values(samples: ModuleType) -> None:
    report = gate.evaluate([], samples.quality_of(samples.windows()), samples.cost())
    for metric in report.metrics.values():
        expected = (
            metric.value / metric.reference - 1
            if metric.comparison == "relative"
            else metric.value - metric.reference
        )
        assert metric.delta == pytest.approx(expected)
        assert metric.low <= metric.delta <= metric.high


@pytest.mark.parametrize(
    ("statuses", "worst", "code"),
    [
        (["pass", "pass"], "pass", 0),
        (["pass", "unverified"], "unverified", 3),
        (["unverified", "inconclusive"], "inconclusive", 3),
        (["inconclusive", "fail", "pass"], "fail", 1),
        (["fail", "error", "inconclusive"], "error", 4),
    ],
)
def test_the_worst_target_speaks_for_the_run(statuses: list[gate.Status], worst: str, code: int) -> None:
    assert gate.worst(statuses) == worst
    assert gate.exit_code(statuses) == code


@pytest.mark.parametrize(
    ("change", "wrong", "most"),
    [
        (0.0, "fail", 0.0),  # a build that did not change is never called a regression
        (0.01, "pass", 0.08),  # one at the very limit passes no more often than alpha says
        (0.01, "fail", 0.08),
        (0.03, "pass", 0.0),  # a regression of three times the limit never slips through
    ],
)
def test_false_alarms_and_misses_stay_rare(
    change: float, wrong: str, most: float, samples: ModuleType
) -> None:
    bounds = samples.bounds(perplexity={"max_increase": "1%"})
    trials = 300
    found = [
        gate.evaluate(
            bounds,
            samples.quality_of(samples.windows(40, change=change, spread=0.02, seed=seed, per_document=3)),
            None,
            resamples=300,
        ).status
        for seed in range(trials)
    ]
    assert found.count(wrong) / trials <= most
    assert found.count("pass" if change == 0 else "fail" if change == 0.03 else "inconclusive") / trials > 0.7
