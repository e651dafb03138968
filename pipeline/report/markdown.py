"""The report as Markdown: for a terminal, a pull request, or the summary page of a CI job."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from ..metrics import metric_title
from ..units import show, show_count, show_delta, show_interval
from .html import SENTENCES, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .model import RunReport, TargetReport

# By this a bot finds its earlier comment and replaces it.
MARKER = "<!-- ingot report -->"
SYMBOLS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "unverified": "⚪", "error": "🛑"}
SPECIAL = re.compile(r"([\\`*_{}\[\]|#~])")


def render_markdown(report: RunReport) -> str:
    """The verdict, a table for each target, and the checks that did not pass with their reasons."""
    verdict = report.verdict
    lines = [
        MARKER,
        f"## {SYMBOLS[verdict]} {WORDS[verdict]}: {escape(report.model.name)}",
        "",
        (
            f"{SENTENCES[verdict]} {escape(report.model.architecture)}, "
            f"{show_count(report.model.parameters)} parameters, run `{code(report.run)}`."
        ),
        "",
    ]
    for target in report.targets.values():
        lines += _target(target)
    lines += [f"> {escape(note)}" for note in report.notes]
    if report.command:
        lines += ["", f"Again: `{code(report.command)}`"]
    return "\n".join(lines).rstrip() + "\n"


def _target(target: TargetReport) -> Iterator[str]:
    yield f"### {SYMBOLS[target.status]} {escape(target.name)}: {target.status}"
    yield ""
    if target.explanation:
        yield f"{escape(target.explanation)}"
        yield ""
    if target.metrics:
        yield from table(
            ("Metric", "Reference", "Artifact", "Change", "90 % interval", "Limit", ""),
            (_metric_row(target, name) for name in target.metrics),
        )
        yield ""
    for check in target.checks:
        if check.status != "pass":
            yield f"- {SYMBOLS[check.status]} {escape(check.message)}"
    yield ""
    if target.delivery:
        yield f"Delivered to `{code(target.delivery)}`."
        yield ""


def _metric_row(target: TargetReport, name: str) -> tuple[str, ...]:
    metric = target.metrics[name]
    checks = [check for check in target.checks if check.metric == name]
    is_exact = metric.low is not None and metric.low == metric.high
    return (
        escape(metric_title(name)),
        show(metric.reference, metric.unit),
        show(metric.value, metric.unit),
        show_delta(metric.delta, metric.unit, metric.comparison),
        "exact" if is_exact else show_interval(metric.low, metric.high, metric.unit, metric.comparison),
        ", ".join(check.bound for check in checks),
        " ".join(SYMBOLS[check.status] for check in checks),
    )


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a table; cells are Markdown already."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    return SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Text between backticks, which nothing inside can end."""
    return " ".join(text.split()).replace("`", "'")
