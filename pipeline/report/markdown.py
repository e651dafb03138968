"""The report as Markdown: for a terminal, a pull request, or the summary page of a CI job."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from ..metrics import metric_title
from ..units import show, show_count, show_delta, show_interval, show_seconds
from . import emulated
from .html import SENTENCES, WORDS
from .overview import overviews
from .verified import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .model import Expected, NodeReport, RunReport, TargetReport
    from .overview import Overview
    from .verified import Line

# By this a bot finds its earlier comment and replaces it.
MARKER = "<!-- ingot report -->"
SYMBOLS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "unverified": "⚪", "error": "🛑"}
SPECIAL = re.compile(r"([\\`*_{}\[\]|#~])")


def render_markdown(report: RunReport) -> str:
    """The verdict, a table for each target and each matrix, what did not pass, and what the nodes took."""
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
    lines += _side_by_side(side_by_side(report.targets.values()))
    matrices = [overview for overview in overviews(report.targets) if overview.title]
    cells = {target.name for overview in matrices for target in overview.targets}
    for overview in matrices:
        lines += _overview(overview)
    for target in report.targets.values():
        lines += _target(target) if target.name not in cells else ()
    for pruning in report.prunings:
        lines += [f"- {escape(pruning.node)}: {escape(pruning.summary)}"] if pruning.summary else []
    lines += [""] if report.prunings else []
    lines += _nodes(report.nodes)
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
    if target.emulated:
        yield from table(emulated.HEAD, (emulated.cells(found) for found in target.emulated))
        yield ""
    for check in target.checks:
        if check.status != "pass":
            yield f"- {SYMBOLS[check.status]} {escape(check.message)}"
    yield ""
    if target.delivery:
        yield f"Delivered to `{code(target.delivery)}`."
        yield ""


def _side_by_side(targets: Sequence[Line]) -> Iterator[str]:
    """A line for each target; nothing where there is nothing to compare."""
    if targets:
        head = ("Target", "Artifact", "", "Size", "Quality", "Cost", "Verified")
        rows = (
            (
                escape(line.target.name), escape(line.artifact), SYMBOLS[line.target.status], line.size,
                escape(line.quality), escape(line.cost), line.verified,
            )
            for line in targets
        )  # fmt: skip
        yield from table(head, rows)
        yield ""


def _overview(overview: Overview) -> Iterator[str]:
    """The cells of a matrix, a line each, and why some of them did not pass."""
    yield f"### {escape(overview.title)} by {escape(', '.join(overview.axes))}"
    yield ""
    head = (
        *(escape(axis) for axis in overview.axes),
        "",
        *(("Front",) if overview.front else ()),
        *(escape(metric_title(n)) for n in overview.metrics),
    )
    rows = (
        (
            *(escape(place) for place in overview.place(target)),
            SYMBOLS[target.status],
            *((("●" if target.name in overview.front else ""),) if overview.front else ()),
            *(_brief(target, name) for name in overview.metrics),
        )
        for target in overview.targets
    )
    yield from table(head, rows)
    yield ""
    if overview.front:
        yield "● On the front: no other is smaller and loses no more, or loses less and is no larger."
        yield ""
    for target in overview.targets:
        for check in target.checks:
            if check.status != "pass":
                yield f"- {SYMBOLS[check.status]} {escape(target.name)}: {escape(check.message)}"
        if target.explanation:
            yield f"- {SYMBOLS[target.status]} {escape(target.name)}: {escape(target.explanation)}"
        if target.delivery:
            yield f"- {escape(target.name)}: delivered to `{code(target.delivery)}`"
    if overview.smallest:
        yield f"- The smallest that passes: `--select '{code(overview.smallest.name)}'`"
    yield ""


def _brief(target: TargetReport, name: str) -> str:
    """A metric's value and its change."""
    metric = target.metrics.get(name)
    if metric is None:
        return ""
    return f"{show(metric.value, metric.unit)} ({show_delta(metric.delta, metric.unit, metric.comparison)})"


def _nodes(nodes: Sequence[NodeReport]) -> Iterator[str]:
    """What the nodes that ran took, beside what the plan predicted; nothing when all were cached."""
    ran = [(node, node.expected) for node in nodes if node.expected is not None]
    if not ran:
        return
    yield "<details><summary>What the nodes took, beside what was predicted</summary>"
    yield ""
    costs = ("Time", "CPU", "Peak memory", "Output")
    head = ("Node", "State", *(title for cost in costs for title in (cost, "predicted")))
    yield from table(head, (_node_row(node, expected) for node, expected in ran))
    yield ""
    yield "</details>"
    yield ""


def _node_row(node: NodeReport, expected: Expected) -> tuple[str, ...]:
    return (
        escape(node.name),
        node.state,
        show_seconds(node.seconds),
        show_seconds(expected.seconds),
        show_seconds(node.cpu_seconds),
        show_seconds(expected.cpu_seconds),
        show(node.max_rss_bytes, "bytes"),
        show(expected.max_rss_bytes, "bytes"),
        show(node.output_bytes, "bytes"),
        show(expected.output_bytes, "bytes"),
    )


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
