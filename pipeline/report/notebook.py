"""A run as a table for notebooks: one line a target, with its verdict and what changed."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..metrics import metric_title, place_in_table
from ..units import show, show_delta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import RunReport, TargetReport

COLOURS = {"pass": "#1a7f4b", "fail": "#b42318"}
UNDECIDED = "#9a6700"


def render_table(report: RunReport) -> str:
    """An HTML table: targets down, metrics across; each cell has the artifact's value and the change."""
    measured = {name for target in report.targets.values() for name in target.metrics}
    names = sorted(measured, key=place_in_table)
    head = "".join(f"<th>{escape(title)}</th>" for title in _titles(names))
    rows = "".join(f"<tr>{''.join(_cells(target, names))}</tr>" for target in report.targets.values())
    caption = f"{escape(report.model.name)} · run {escape(report.run)}"
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _titles(names: list[str]) -> Iterator[str]:
    yield from ("target", "verdict")
    yield from (metric_title(name) for name in names)


def _cells(target: TargetReport, names: list[str]) -> Iterator[str]:
    colour = COLOURS.get(target.status, UNDECIDED)
    yield f"<td>{escape(target.name)}</td>"
    yield f'<td style="color:{colour}"><b>{escape(target.status)}</b></td>'
    for name in names:
        metric = target.metrics.get(name)
        if metric is None:
            yield "<td></td>"
            continue
        delta = show_delta(metric.delta, metric.unit, metric.comparison)
        yield f"<td>{escape(show(metric.value, metric.unit))} <small>({escape(delta)})</small></td>"
