"""The report as a comment on a pull request: a line for each target, and why those fail that do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import show, show_delta, show_interval
from .html import SENTENCES, WORDS
from .markdown import MARKER, SYMBOLS, code, escape, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import RunReport, TargetReport

# The number that speaks for a target's quality is the first of these that it has.
QUALITY = ("perplexity", "cosine")
SPEED = "decode_ms", "prefill_ms"


def render_comment(report: RunReport) -> str:
    """Short Markdown that begins with the marker by which a bot finds its earlier comment."""
    verdict = report.verdict
    lines = [
        MARKER,
        f"### {SYMBOLS[verdict]} Ingot: {WORDS[verdict].lower()}, {escape(report.model.name)}",
        "",
        SENTENCES[verdict],
        "",
        *table(("Target", "", "Quality", "Size", "Time"), map(_row, report.targets.values())),
        "",
        *(line for target in report.targets.values() for line in _reasons(target)),
        f"<sub>Run `{code(report.run)}`, Ingot {escape(report.version)}</sub>",
    ]
    return "\n".join(lines) + "\n"


def _row(target: TargetReport) -> tuple[str, ...]:
    return (
        escape(target.name),
        f"{SYMBOLS[target.status]} {target.status}",
        _change(target, QUALITY),
        _change(target, ("size_bytes",)),
        _change(target, SPEED),
    )


def _change(target: TargetReport, names: tuple[str, ...]) -> str:
    """The value of the first metric that there is, its change and the interval of that."""
    metric = next((target.metrics[name] for name in names if name in target.metrics), None)
    if metric is None:
        return ""
    shown = f"{show(metric.value, metric.unit)}, {show_delta(metric.delta, metric.unit, metric.comparison)}"
    if metric.low is not None and metric.low != metric.high:
        shown += f" {show_interval(metric.low, metric.high, metric.unit, metric.comparison)}"
    return shown


def _reasons(target: TargetReport) -> Iterator[str]:
    told = [check.message for check in target.checks if check.status != "pass"]
    if target.explanation:
        told.insert(0, target.explanation)
    for message in told:
        yield f"- **{escape(target.name)}**: {escape(message)}"
    if told:
        yield ""
