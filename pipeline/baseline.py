"""Baselines: what a run measured, pinned in a small JSON file, for later runs to be held against.

A baseline keeps, for each target, the digests of the reference and of the evaluation text, the window, the
version of each metric's definition, values with intervals, and sums by document, by which two artifacts are
compared in pairs. Times and memory are not in it: every run measures them in turns with its own reference on
one machine, and numbers of another day or machine would tell of that machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..artifacts.digest import digest_json
from ..artifacts.errors import CorruptError, InputError
from . import measurements as measured
from .gate import GateReport, MetricResult, evaluate
from .graph import GateRule
from .measurements import Column, Measured, Measurements
from .metrics import METRICS
from .plain import from_plain, to_plain
from .rules import read_bound
from .summaries import column_fault, document_sums

if TYPE_CHECKING:
    from pathlib import Path

    from ..artifacts.store import Store
    from .report.model import NodeReport, RunReport, TargetReport
    from .rules import Bound

SCHEMA = "ingot/baseline/v1"
# What `validate.cost` measures that is the same everywhere, with the version of its definition.
EXACT_COSTS: Mapping[str, int] = {"size_bytes": 1}
CHANGES = ("max_increase", "max_decrease")


@dataclass(frozen=True)
class PinnedMetric:
    """One metric of an artifact. value, its interval and the rest: as in :class:`MetricResult`.

    version: of the metric's definition.
    """

    version: int
    result: MetricResult


@dataclass(frozen=True)
class PinnedTarget:
    """What was measured of one target.

    artifact, reference, evaluation: SHA-256 of the artifact, of the checkpoint it is held against and of the
    held-out text.  window: tokens of a full window.  documents, tokens: label and scored tokens of each
    document.  sums: metric → its sum over the tokens of each document.
    """

    artifact: str
    reference: str
    evaluation: str
    window: int
    metrics: Mapping[str, PinnedMetric]
    documents: tuple[int, ...]
    tokens: tuple[int, ...]
    sums: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Baseline:
    """What a run measured. left_out: target → why it has no numbers that could be compared."""

    run: str
    ingot: str
    model: str
    targets: Mapping[str, PinnedTarget]
    left_out: Mapping[str, str]


def pin(store: Store, report: RunReport) -> Baseline:
    """What a finished run measured; raises InputError when the store no longer has it."""
    targets: dict[str, PinnedTarget] = {}
    left_out: dict[str, str] = {}
    for name, target in report.targets.items():
        node = _quality_node(report, target)
        if node is None or node.artifact is None:
            left_out[name] = target.explanation or "its quality was not measured"
            continue
        artifact = store.artifact(node.artifact)
        if artifact is None:
            raise InputError(
                f"what {name} measured is no longer in the store",
                where=f"run {report.run}",
                fix="run the recipe again, which measures what is missing",
            )
        quality = measured.read(artifact.path)
        fault = column_fault(quality.columns)
        if fault:
            left_out[name] = fault
        else:
            targets[name] = _pinned(target, quality, _reference(report, node))
    return Baseline(report.run, report.version, report.model.name, targets, left_out)


def render(baseline: Baseline) -> str:
    """The JSON text of a baseline."""
    value = {"schema": SCHEMA, **to_plain(baseline)}
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> Baseline:
    """The baseline in a file; raises InputError when there is none, CorruptError for another shape."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(
            f"the baseline cannot be read: {error.strerror}",
            where=str(path),
            fix="`ingot baseline save FILE` writes one",
        ) from None
    try:
        value = json.loads(text)
        schema, baseline = value["schema"], from_plain(Baseline, value)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptError(f"not a baseline ({type(error).__name__}: {error})", where=str(path)) from None
    if schema != SCHEMA:
        raise CorruptError(f"a baseline of schema {schema!r}, not {SCHEMA!r}", where=str(path))
    return baseline


def compare(baseline: Baseline, now: Baseline, report: RunReport) -> dict[str, GateReport]:
    """Each measured target of a run against the baseline: the baseline is the reference of every delta.

    report: of the run that ``now`` pins, whose bounds on changes hold for these deltas; a target without one
    is `unverified`. Raises InputError for targets that the baseline does not have, and for numbers that
    cannot be compared: other data, another reference, another window, another version of a metric.
    """
    found = {}
    for name, target in now.targets.items():
        if name not in baseline.targets:
            known = ", ".join(baseline.targets) or "none"
            raise InputError(
                f"the baseline has no numbers of the target {name}",
                where=f"its targets: {known}",
                fix="save it again from a run with that target",
            )
        before = baseline.targets[name]
        require_comparable(name, before, target)
        both = _paired(before, target)
        found[name] = evaluate(change_bounds(report.targets[name], both.metrics), both, None)
    return found


def require_comparable(name: str, before: PinnedTarget, now: PinnedTarget) -> None:
    """Raises InputError, naming both sides, unless the two were measured in the same way on the same text."""
    sides = {
        "on other data: the evaluation text": (before.evaluation[:12], now.evaluation[:12]),
        "against another reference: the checkpoint": (before.reference[:12], now.reference[:12]),
        "in other windows: their tokens": (before.window, now.window),
        "on other documents: their count": (len(before.documents), len(now.documents)),
        "on other tokens: their digest": (_tokens_digest(before), _tokens_digest(now)),
    }
    for metric in before.metrics.keys() & now.metrics.keys():
        versions = before.metrics[metric].version, now.metrics[metric].version
        sides[f"by another definition of {metric}: its version"] = versions
    for what, (old, new) in sides.items():
        if old != new:
            raise InputError(
                f"{name} cannot be compared, it was measured {what} is {old} in the baseline and {new} here",
                fix="measure both alike, or save the baseline again",
            )


def change_bounds(target: TargetReport, measured: Mapping[str, object]) -> list[Bound]:
    """The bounds on changes that a run held a target to, of the metrics that were ``measured``."""
    return [
        read_bound(GateRule(check.metric, check.rule, check.limit, check.origin))
        for check in target.checks
        if check.rule in CHANGES and check.limit is not None and check.metric in measured
    ]


def _quality_node(report: RunReport, target: TargetReport) -> NodeReport | None:
    """The node that measured a target's quality: its own, or one of another target with equal work."""
    nodes = {node.name: node for node in report.nodes}
    having = [
        node
        for node in report.nodes
        if node.stage == "validate.quality" and nodes[node.inputs["artifact"]].artifact == target.artifact
    ]
    own = [node for node in having if node.target == target.name]
    return next(iter((*own, *having)), None) if target.artifact else None


def _reference(report: RunReport, quality: NodeReport) -> str:
    nodes = {node.name: node for node in report.nodes}
    return str(nodes[nodes[quality.inputs["reference"]].inputs["model"]].artifact)


def _pinned(target: TargetReport, quality: Measurements, reference: str) -> PinnedTarget:
    versions = quality.data.get("versions")
    if not isinstance(versions, Mapping):
        raise InputError(
            f"{target.name} was measured by an Ingot that did not write down what its metrics mean",
            fix="run the recipe again, which measures it anew",
        )
    names, sums = document_sums(quality.columns)
    known: dict[str, int] = {**{name: int(version) for name, version in versions.items()}, **EXACT_COSTS}
    return PinnedTarget(
        artifact=str(target.artifact),
        reference=reference,
        evaluation=str(quality.data["evaluation"]),
        window=int(str(quality.data["window"])),
        metrics={
            name: PinnedMetric(known[name], result)
            for name, result in target.metrics.items()
            if name in known and result.delta is not None
        },
        documents=tuple(sorted({int(label) for label in quality.columns["document"]})),
        tokens=tuple(int(count) for count in sums[:, names.index("tokens")]),
        sums={
            name: tuple(sums[:, names.index(column)].tolist())
            for name in versions
            if (column := _column(name)) in names
        },
    )


def _column(metric: str) -> str:
    """The column of an artifact's sums."""
    return METRICS[metric].column if metric in METRICS else f"{metric}_value"


def _tokens_digest(target: PinnedTarget) -> str:
    return digest_json([list(target.documents), list(target.tokens)])[:12]


def _paired(before: PinnedTarget, now: PinnedTarget) -> Measurements:
    """Measurements whose reference is the baseline's artifact, with a sample for each document."""
    metrics: dict[str, Measured] = {}
    columns: dict[str, Column] = {"document": now.documents, "tokens": now.tokens}
    for name in (name for name in now.metrics if name in before.metrics):
        old, new = before.metrics[name].result, now.metrics[name].result
        if old.value is None or new.value is None:
            continue
        metrics[name] = Measured(
            name, new.unit, new.better, new.comparison, old.value, new.value, new.n, new.tokens, new.documents
        )
        if name in before.sums and name in now.sums:
            pair = ("nll_reference", "nll_value")
            if name != "perplexity":
                pair = (f"{name}_reference", f"{name}_value")
            columns |= dict(zip(pair, (before.sums[name], now.sums[name]), strict=True))
    digest = digest_json([to_plain(before), to_plain(now)])
    return Measurements("quality", "", metrics, columns, {}, {}, {}, digest)
