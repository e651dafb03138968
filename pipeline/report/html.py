"""The HTML report: one self-contained file without scripts, for light, dark, phone and paper."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..gate import Check, MetricResult, worst
from ..metrics import QUALITY, metric_title, place_in_table
from ..units import (
    MISSING,
    show,
    show_bytes,
    show_count,
    show_delta,
    show_interval,
    show_seconds,
    significant,
)
from . import emulated, figures, merge_figures, plots, prune_figures, training_figures
from .dag import boxes_of, dag
from .figures import Figure
from .golden import golden_texts
from .overview import alone, overviews
from .svg import Fragment
from .verified import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import jinja2

    from .model import NodeReport, RunReport, TargetReport

WORDS = {
    "pass": "Pass",
    "fail": "Fail",
    "inconclusive": "Inconclusive",
    "unverified": "Unverified",
    "error": "Error",
}
SENTENCES = {
    "pass": "Every limit is met.",
    "fail": "A limit is broken.",
    "inconclusive": "The measurements cannot tell on which side of a limit the truth lies.",
    "unverified": "Built, but not measured to the end here.",
    "error": "A stage failed.",
}


# Perplexities past this say no more than that the network is broken.
MOST_NATS = 30.0


@dataclass(frozen=True)
class Row:
    """One target's line under a metric; status: of its worst check on that metric, empty without one."""

    target: str
    metric: MetricResult
    status: str
    checks: tuple[Check, ...]
    plot: Fragment


@dataclass(frozen=True)
class Group:
    """One metric with a line for each target, on a shared axis from ``low`` to ``high``."""

    title: str
    better: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Headline:
    """A number that speaks for a target: ``0.16 ×`` in large, what it is and comes from in small."""

    label: str
    value: str
    detail: str


def render_html(report: RunReport) -> str:
    """The page. Everything that comes from outside is escaped; nothing is loaded from anywhere."""
    return _template().render(
        report=report,
        counts=_counts(report),
        groups=list(_groups(report)),
        sizes=plots.size_bars(report.model.weight_bytes, report.targets.values()),
        lines=side_by_side(report.targets.values()),
        emulations=[target for target in report.targets.values() if target.emulated],
        overviews=overviews(report.targets),
        alone=alone(report.targets),
        predicted=prediction_basis(report.nodes),
        trades=list(figures.trades(report)),
        golden=golden_texts(report),
        merges=list(merge_figures.figures_of(report.merges)),
        trainings=list(training_figures.figures_of(report.trainings)),
        prunings=list(prune_figures.figures_of(report.prunings)),
        weights=list(figures.weights(report)),
        worst=list(figures.worst_tensors(report)),
        steps=list(figures.steps(report)),
        timings=list(_timing_figures(report)),
        spreads=list(figures.spreads(report)),
        sweeps=list(figures.sweeps(report)),
        documents=list(_document_figures(report)),
        tools=_tools(report),
        graph=dag(boxes_of(report.nodes)),
    )


@functools.cache
def _template() -> jinja2.Template:
    from .templates import environment as new_environment
    from .templates import stylesheet

    environment = new_environment()
    environment.filters |= {
        "show": show, "delta": show_delta, "bytes": show_bytes, "count": show_count, "seconds": show_seconds,
        "interval": show_interval,
        "moment": _moment, "perplexity": _perplexity, "nats": _nats,
    }  # fmt: skip
    environment.globals |= {
        "style": Fragment(stylesheet()),
        "words": WORDS, "sentences": SENTENCES, "headlines": headlines, "width_bar": plots.width_bar,
        "metric_title": metric_title, "quality_of": figures.quality_of, "emulated": emulated,
    }  # fmt: skip
    return environment.get_template("report.html.j2")


def headlines(target: TargetReport) -> list[Headline]:
    """Size, quality and speed of a target in a few words each, of those that were measured."""
    found = []
    size, metrics = target.metrics.get("size_bytes"), target.metrics
    if size and size.delta is not None:
        detail = f"{show(size.reference, 'bytes')} → {show(size.value, 'bytes')}"
        found.append(Headline("of the size", f"{significant(size.delta + 1, 2)} ×", detail))
    for name in QUALITY:
        metric = metrics.get(name)
        if metric and metric.delta is not None:
            value = show_delta(metric.delta, metric.unit, metric.comparison)
            if metric.comparison == "absolute":
                value = show(metric.value, metric.unit)
            detail = f"{show(metric.reference, metric.unit)} → {show(metric.value, metric.unit)}"
            found.append(Headline(metric_title(name).lower(), value, detail))
    for name, label in (("prefill_ms", "prefill speed"), ("decode_ms", "decode speed")):
        metric = metrics.get(name)
        if metric and metric.delta is not None and metric.delta > -1:
            detail = f"{show(metric.reference, metric.unit)} → {show(metric.value, metric.unit)}"
            found.append(Headline(label, f"{significant(1 / (metric.delta + 1), 2)} ×", detail))
    return found


def prediction_basis(nodes: Iterable[NodeReport]) -> str:
    """What the predictions of a run rest on, in words; empty where nothing was predicted."""
    expected = [node.expected for node in nodes if node.expected is not None]
    stated = sum(not each.runs for each in expected)
    parts = [f"{len(expected) - stated} from past runs of the stage"] * (len(expected) > stated)
    parts += [f"{stated} estimated without one"] * bool(stated)
    return " and ".join(parts)


def _counts(report: RunReport) -> str:
    """``2 targets: 1 pass, 1 inconclusive``."""
    statuses = [target.status for target in report.targets.values()]
    if len(statuses) == 1:
        return next(iter(report.targets))
    parts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    return f"{len(statuses)} targets: {', '.join(parts)}"


def _groups(report: RunReport) -> Iterator[Group]:
    names = dict.fromkeys(name for target in report.targets.values() for name in target.metrics)
    for name in sorted(names, key=place_in_table):
        having = {t.name: t for t in report.targets.values() if name in t.metrics}
        metrics = [target.metrics[name] for target in having.values()]
        checks = {t.name: tuple(c for c in t.checks if c.metric == name) for t in having.values()}
        limits = [
            limit
            for target in having.values()
            for check in checks[target.name]
            if (limit := plots.delta_limit(target.metrics[name], check)) is not None
        ]
        scale = plots.interval_scale(metrics, limits)
        rows = []
        for target in having.values():
            own = checks[target.name]
            status = worst(check.status for check in own) if own else ""
            plot = plots.interval(target.metrics[name], own, scale, status)
            rows.append(Row(target.name, target.metrics[name], status, own, plot))
        yield Group(metric_title(name), metrics[0].better, tuple(rows))


def _timing_figures(report: RunReport) -> Iterator[Figure]:
    names = {timing.metric for target in report.targets.values() for timing in target.timings}
    for name in sorted(names, key=place_in_table):
        rows = {
            target.name: timing
            for target in report.targets.values()
            for timing in target.timings
            if timing.metric == name
        }
        yield Figure(metric_title(name), plots.repeats(name, rows))


def _document_figures(report: RunReport) -> Iterator[Figure]:
    for target in report.targets.values():
        name = figures.quality_of(target)
        if name is None or not target.documents:
            continue
        metric = target.metrics[name]
        limits = [plots.delta_limit(metric, check) for check in target.checks if check.metric == name]
        limit = next((limit for limit in limits if limit is not None), None)
        plot = plots.document_plot(target.documents, limit, metric.comparison)
        yield Figure(f"{target.name}: {metric_title(name).lower()}", plot)


def _tools(report: RunReport) -> dict[str, str]:
    """The versions of the libraries that stages ran with, by name."""
    return dict(
        sorted({name: version for node in report.nodes for name, version in node.tools.items()}.items())
    )


def _perplexity(loss: float | None) -> str:
    """Nats a token as perplexity; None is a loss that is not finite."""
    return significant(math.exp(loss), 4) if loss is not None and loss < MOST_NATS else "∞"


def _nats(loss: float | None) -> str:
    """Nats a token; an en dash where there is no number."""
    return MISSING if loss is None else f"{loss:.4f}"


def _moment(iso: str) -> str:
    """``2026-11-21T09:12:33.123Z`` as ``2026-11-21 09:12 UTC``."""
    return f"{iso[:10]} {iso[11:16]} UTC" if len(iso) >= 16 else iso
