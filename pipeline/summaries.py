"""From samples to estimates: the value and the delta of each metric with intervals, or what is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .measurements import Column, Measured, Measurements
from .metrics import METRICS, Estimator, Metric
from .statistics import (
    Estimate,
    cluster_interval,
    exact,
    median_interval,
    median_ratio_interval,
    resampled_sums,
    sum_by_cluster,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from .statistics import Statistic

    Array = npt.NDArray[np.float64]

NOTHING = Estimate(math.nan, None, None, 0)
# Samples must add up to the value that was reported with them, save for rounding in other orders of summing.
TOLERANCE = 1e-5
BY_DOCUMENT = ("perplexity", "token_mean", "paired_mean")


@dataclass(frozen=True)
class Summary:
    """One metric judged sound, or its ``fault``: a sentence, empty when there is none."""

    measured: Measured
    value: Estimate = NOTHING
    delta: Estimate = NOTHING
    fault: str = ""


@dataclass(frozen=True)
class Documents:
    """Sums of every column by document, [documents, columns], and of the bootstrap samples of documents."""

    columns: tuple[str, ...]
    sums: Array
    resampled: Array

    def estimate(self, statistic: Statistic, alpha: float) -> Estimate:
        """A statistic of the column sums with its interval."""
        return cluster_interval(self.sums, self.resampled, statistic, alpha=alpha)


def summarize(measurements: Measurements, *, alpha: float, resamples: int) -> dict[str, Summary]:
    """A summary of every metric in the order in which they were measured."""
    if not measurements.metrics:
        empty = Measured(measurements.kind, "", "lower", "absolute", math.nan, math.nan, 0)
        return {measurements.kind: Summary(empty, fault=f"{measurements.kind}: nothing was measured")}
    needs_documents = any(
        _estimator(name, measurements.columns) in BY_DOCUMENT for name in measurements.metrics
    )
    fault = column_fault(measurements.columns) if needs_documents else ""
    documents = _documents(measurements, resamples) if needs_documents and not fault else None
    return {
        name: _summary(measured, measurements, documents, fault, alpha)
        for name, measured in measurements.metrics.items()
    }


def column_fault(columns: Mapping[str, Column]) -> str:
    """What makes per-window samples unusable, as a sentence; empty when nothing does."""
    for name in ("document", "tokens"):
        if name not in columns:
            return f"the samples have no column {name}"
    counts = {name: len(column) for name, column in columns.items()}
    if not counts["document"]:
        return "there are no samples"
    if len(set(counts.values())) > 1:
        return "sample counts disagree: " + ", ".join(f"{name} {count}" for name, count in counts.items())
    for name, column in columns.items():
        wrong = sum(not math.isfinite(number) for number in column)
        if wrong:
            return f"{wrong} of {len(column)} samples of {name} are not finite numbers"
    if min(columns["tokens"]) < 1:
        return "a sample has no tokens"
    return ""


def document_sums(columns: Mapping[str, Column]) -> tuple[tuple[str, ...], Array]:
    """The names of sound columns and their sums, [documents, columns], documents by ascending label."""
    names = tuple(name for name in columns if name != "document")
    summed = []
    for name in names:
        column = columns[name]
        if name == "cosine":
            # Encoders store a mean over each window's tokens where the other columns store sums.
            column = [a * b for a, b in zip(column, columns["tokens"], strict=True)]
        summed.append(column)
    return names, sum_by_cluster([int(label) for label in columns["document"]], summed)


def _documents(measurements: Measurements, resamples: int) -> Documents:
    names, sums = document_sums(measurements.columns)
    seed = int(measurements.digest[:16], 16)
    return Documents(names, sums, resampled_sums(sums, seed, resamples))


def _summary(
    measured: Measured, measurements: Measurements, documents: Documents | None, fault: str, alpha: float
) -> Summary:
    metric = METRICS.get(measured.name)
    estimator = _estimator(measured.name, measurements.columns)
    if metric is not None and estimator == "repeats" and measurements.is_alone:
        return _from_one_side(measured, metric, measurements, alpha)
    for side, number in (("reference", measured.reference), ("artifact", measured.value)):
        if not math.isfinite(number):
            return Summary(measured, fault=f"the {side}'s {measured.name} is not a finite number")
    if measured.comparison == "relative" and measured.reference <= 0:
        return Summary(measured, fault=f"the reference's {measured.name} is not above 0")
    if estimator == "exact":
        return Summary(measured, exact(measured.value), exact(_difference(measured)))
    if metric is not None and estimator == "repeats":
        return _from_repeats(measured, metric, measurements, alpha)
    if fault:
        return Summary(measured, fault=fault)
    if documents is None:
        raise ValueError(f"{measured.name}: no sums by document were made")
    if estimator == "paired_mean":
        return _from_pairs(measured, documents, alpha)
    if metric is None or metric.column not in documents.columns:
        return Summary(measured, fault=f"the samples have no column {metric.column if metric else ''}")
    return _from_documents(measured, metric, documents, alpha)


def _estimator(name: str, columns: Mapping[str, Column]) -> Estimator:
    """How a metric's samples lead to its value; sums of both sides speak for themselves."""
    if all(f"{name}_{side}" in columns for side in ("reference", "value")):
        return "paired_mean"
    return METRICS[name].estimator if name in METRICS else "exact"


def _from_pairs(measured: Measured, documents: Documents, alpha: float) -> Summary:
    """A mean over tokens of both sides, each a column of sums."""
    import numpy as np

    tokens, reference, value = (
        documents.columns.index(name)
        for name in ("tokens", f"{measured.name}_reference", f"{measured.name}_value")
    )
    if measured.comparison == "relative" and np.any(documents.sums[:, reference] <= 0):
        return Summary(measured, fault=f"the reference's {measured.name} of a document is not above 0")

    def change(sums: Array) -> Array:
        if measured.comparison == "relative":
            return sums[..., value] / sums[..., reference] - 1
        return (sums[..., value] - sums[..., reference]) / sums[..., tokens]

    mean = documents.estimate(lambda sums: sums[..., value] / sums[..., tokens], alpha)
    return _if_consistent(Summary(measured, mean, documents.estimate(change, alpha)), documents)


def _difference(measured: Measured) -> float:
    if measured.comparison == "relative":
        return measured.value / measured.reference - 1
    return measured.value - measured.reference


def _from_documents(measured: Measured, metric: Metric, documents: Documents, alpha: float) -> Summary:
    import numpy as np

    tokens = documents.columns.index("tokens")
    column = documents.columns.index(metric.column)

    def mean(sums: Array) -> Array:
        return sums[..., column] / sums[..., tokens]

    if metric.estimator == "perplexity":
        if "nll_reference" not in documents.columns:
            return Summary(measured, fault="the samples have no column nll_reference")
        other = documents.columns.index("nll_reference")
        value = documents.estimate(lambda sums: np.exp(mean(sums)), alpha)
        delta = documents.estimate(
            lambda sums: np.expm1((sums[..., column] - sums[..., other]) / sums[..., tokens]), alpha
        )
    else:
        value = documents.estimate(mean, alpha)
        delta = Estimate(
            value.value - measured.reference,
            None if value.low is None else value.low - measured.reference,
            None if value.high is None else value.high - measured.reference,
            value.clusters,
        )
    return _if_consistent(Summary(measured, value, delta), documents)


def _if_consistent(summary: Summary, documents: Documents) -> Summary:
    """The summary, or the fault that its numbers or counts are not those of its samples."""
    measured = summary.measured
    tokens = float(documents.sums[:, documents.columns.index("tokens")].sum())
    pairs: dict[str, tuple[float | None, float]] = {
        "value": (measured.value, summary.value.value),
        "delta": (_difference(measured), summary.delta.value),
        "documents": (measured.documents, float(len(documents.sums))),
        "tokens": (measured.tokens, tokens),
    }
    for name, (stated, found) in pairs.items():
        if stated is not None and not math.isclose(stated, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            return Summary(
                measured, fault=f"{measured.name}: its {name} is {stated:g}, but its samples give {found:g}"
            )
    return summary


def _from_one_side(measured: Measured, metric: Metric, measurements: Measurements, alpha: float) -> Summary:
    """The value of what was measured without its reference; there is no difference to tell."""
    value = measurements.repeats.get(metric.column, {}).get("value", ())
    if not value or not all(math.isfinite(number) and number > 0 for number in value):
        return Summary(measured, fault=f"{metric.name}: its repeats are not finite numbers above 0")
    return Summary(measured, median_interval(value, alpha=alpha))


def _from_repeats(measured: Measured, metric: Metric, measurements: Measurements, alpha: float) -> Summary:
    sides = measurements.repeats.get(metric.column, {})
    reference, value = sides.get("reference", ()), sides.get("value", ())
    if not value or not reference:
        return Summary(measured, fault=f"{metric.name}: there are no repeats")
    if len(reference) != len(value):
        return Summary(
            measured,
            fault=f"{metric.name}: {len(reference)} repeats of the reference, {len(value)} of the artifact",
        )
    if not all(math.isfinite(number) and number > 0 for number in (*reference, *value)):
        return Summary(measured, fault=f"{metric.name}: a repeat is not a finite number above 0")
    seed = int(measurements.digest[:16], 16)
    delta = median_ratio_interval(reference, value, seed, alpha=alpha)
    summary = Summary(measured, median_interval(value, alpha=alpha), delta)
    if not math.isclose(_difference(measured), delta.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        return Summary(measured, fault=f"{metric.name}: its value is not the median of its repeats")
    return summary
