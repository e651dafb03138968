"""The gate: a pure function from measurements and bounds to a verdict with its reasons.

For each bound the paired difference between artifact and reference, measured on the same samples, is held
against the limit with a confidence interval (non-inferiority): the whole interval within the limit passes,
the whole interval beyond it fails, anything else is `inconclusive`. NaN, empty samples and counts that
disagree fail, whether or not a bound asks for the metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from .metrics import METRICS, place_in_table
from .statistics import ALPHA, RESAMPLES, Estimate, clusters_to_decide
from .summaries import Summary, summarize
from .units import show, show_delta

if TYPE_CHECKING:
    from .measurements import Measured, Measurements
    from .rules import Bound

Status = Literal["pass", "fail", "inconclusive", "unverified", "error"]
Verdict = Literal["pass", "fail", "inconclusive"]
# From the worst to the best: the order in which exit codes win is 2, 4, 1, 3, 0.
SEVERITY: tuple[Status, ...] = ("error", "fail", "inconclusive", "unverified", "pass")
EXIT_CODES: Mapping[Status, int] = {"error": 4, "fail": 1, "inconclusive": 3, "unverified": 3, "pass": 0}
METHODS = {
    "perplexity": "paired cluster bootstrap over documents",
    "token_mean": "paired cluster bootstrap over documents",
    "paired_mean": "paired cluster bootstrap over documents",
    "repeats": "paired bootstrap of the medians over interleaved repeats",
    "exact": "exact",
}


@dataclass(frozen=True)
class MetricResult:
    """A metric of one target.

    delta: value / reference - 1 where comparison is `relative`, else value - reference.  low, high: its
    interval, 90 % two-sided; equal to it for exact metrics, None where the samples allow none.  value_low,
    value_high: that of the value.
    """

    reference: float | None
    value: float | None
    delta: float | None
    low: float | None
    high: float | None
    n: int
    tokens: int | None
    documents: int | None
    unit: str
    better: str
    comparison: str
    value_low: float | None = None
    value_high: float | None = None


@dataclass(frozen=True)
class Check:
    """One bound and how it was met.

    rule: `max`, `min`, `max_increase`, `max_decrease`, or `measured` for what must hold of every metric.
    compared: which of the metric's numbers is held against `limit`; estimate, low, high: that number.
    needed: about how many documents (or repeats) in all would decide, for an inconclusive check.
    """

    metric: str
    status: Verdict
    rule: str
    limit: float | None
    bound: str
    compared: str
    estimate: float | None
    low: float | None
    high: float | None
    method: str
    alpha: float
    origin: str
    message: str
    needed: int | None = None


@dataclass(frozen=True)
class GateReport:
    """The verdict on one target: the worst of its checks; `unverified` when nothing could be checked."""

    status: Status
    checks: tuple[Check, ...]
    metrics: Mapping[str, MetricResult]


def evaluate(
    bounds: Sequence[Bound],
    quality: Measurements | None,
    cost: Measurements | None,
    *,
    alpha: float = ALPHA,
    resamples: int = RESAMPLES,
) -> GateReport:
    """Holds what was measured against the bounds.

    A metric that a bound names and that was not measured fails. The result depends on the arguments alone:
    resampling is seeded by the digest of the measurements.
    """
    summaries: dict[str, Summary] = {}
    for measurements in (quality, cost):
        if measurements is not None:
            summaries |= summarize(measurements, alpha=alpha, resamples=resamples)
    summaries = {name: summaries[name] for name in sorted(summaries, key=place_in_table)}
    checks = [_check(bound, summaries.get(bound.metric.name), alpha) for bound in bounds]
    asked = {bound.metric.name for bound in bounds}
    checks += [
        _unsound(name, summary.fault, alpha)
        for name, summary in summaries.items()
        if summary.fault and name not in asked
    ]
    status: Status = worst(check.status for check in checks) if checks else "unverified"
    return GateReport(status, tuple(checks), {name: _result(summary) for name, summary in summaries.items()})


def worst(statuses: Iterable[Status]) -> Status:
    """The status that speaks for several; raises ValueError for none."""
    return min(statuses, key=SEVERITY.index)


def exit_code(statuses: Iterable[Status]) -> int:
    """The process exit code for the statuses of all targets."""
    return EXIT_CODES[worst(statuses)]


def _check(bound: Bound, summary: Summary | None, alpha: float) -> Check:
    metric = bound.metric
    blank = Check(
        metric.name, "fail", bound.kind, bound.limit, str(bound), bound.compared, None, None, None,
        METHODS[metric.estimator], alpha, bound.origin, "",
    )  # fmt: skip
    if summary is None:
        return replace(blank, message=f"{metric.title} was not measured")
    if summary.fault:
        return replace(blank, message=summary.fault)
    estimate = summary.value if bound.compared == "value" else summary.delta
    status = _verdict(estimate, bound)
    judged = replace(
        blank, status=status, estimate=_finite(estimate.value), low=estimate.low, high=estimate.high,
        message=_message(bound, estimate, status),
    )  # fmt: skip
    if status != "inconclusive":
        return judged
    needed = clusters_to_decide(estimate, bound.edge)
    return replace(judged, needed=needed, message=f"{judged.message}; {_power(bound, estimate, needed)}")


def _verdict(estimate: Estimate, bound: Bound) -> Verdict:
    if estimate.low is None or estimate.high is None:
        return "inconclusive"
    low, high = estimate.low - bound.edge, estimate.high - bound.edge
    if not bound.is_upper:
        low, high = -high, -low
    return "pass" if high <= 0 else "fail" if low > 0 else "inconclusive"


def _message(bound: Bound, estimate: Estimate, status: Verdict) -> str:
    def shown(number: float) -> str:
        if bound.compared == "value":
            return show(number, bound.metric.unit)
        return show_delta(number, bound.metric.unit, bound.metric.comparison)

    found = f"{bound.metric.title} {shown(estimate.value)}"
    if estimate.low is not None and estimate.high is not None and estimate.low != estimate.high:
        found += f" [{shown(estimate.low)}, {shown(estimate.high)}]"
    relation = {"pass": "meets", "fail": "breaks", "inconclusive": "cannot be told from"}[status]
    return f"{found} {relation} the limit {bound}"


def _power(bound: Bound, estimate: Estimate, needed: int | None) -> str:
    if not estimate.clusters:
        return "there is no reference here to compare it with"
    what = "repeat" if bound.metric.estimator == "repeats" else "document"
    if estimate.clusters < 2:
        return f"one {what} gives no interval"
    if needed is None:
        return "the difference lies on the limit, where no amount of data decides"
    more = max(1, needed - estimate.clusters)
    return f"about {more:,} more {what}{'s' if more > 1 else ''} would decide"


def _unsound(name: str, fault: str, alpha: float) -> Check:
    method = METHODS[METRICS[name].estimator] if name in METRICS else "exact"
    return Check(
        name, "fail", "measured", None, "must be sound", "value", None, None, None,
        method, alpha, "always", fault,
    )  # fmt: skip


def _result(summary: Summary) -> MetricResult:
    measured: Measured = summary.measured
    return MetricResult(
        _finite(measured.reference),
        _finite(measured.value),
        _finite(summary.delta.value) if not summary.fault else None,
        summary.delta.low,
        summary.delta.high,
        measured.n,
        measured.tokens,
        measured.documents,
        measured.unit,
        measured.better,
        measured.comparison,
        summary.value.low,
        summary.value.high,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
