"""Many targets on the terminal: a line each, then what did not pass and what may be chosen."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from ..metrics import metric_title
from ..units import show, show_delta

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

    from ..report.model import TargetReport
    from ..report.overview import Overview

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "unverified": "○", "error": "!"}
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unverified": "yellow", "error": "red"}


def show_overview(overview: Overview, console: Console) -> None:
    """Prints the table, the reasons of what did not pass, notes once each, and the smallest that passed."""
    console.print()
    console.print(_fitting(overview, console))
    for target in overview.targets:
        for line in _reasons(target):
            click.echo(f"  {click.style(MARKS[target.status], fg=COLOURS[target.status])} {line}")
    for note, count in _notes(overview.targets).items():
        click.echo(f"  note: {note}" + (f" ({count} of {len(overview.targets)})" if count > 1 else ""))
    best = overview.smallest
    if best is not None and overview.title:
        size = _cells(best, "size_bytes")[0]
        click.echo(f"  the smallest that passes: {best.name}, {size}")
        if best.delivery is None:
            click.echo(f"  deliver it, or another: --select {shlex.quote(best.name)}")


def _fitting(overview: Overview, console: Console) -> Table:
    """The table with as many metrics as the terminal has room for, the last ones left out first."""
    unbounded = console.options.update(max_width=1000)
    for count in range(len(overview.metrics), 0, -1):
        table = _table(overview, overview.metrics[:count])
        if console.measure(table, options=unbounded).maximum <= console.width:
            return table
    return _table(overview, ())


def _table(overview: Overview, metrics: Iterable[str]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    title = f"{escape(overview.title)}  [dim]by {escape(', '.join(overview.axes))}[/dim]"
    table = Table(
        title=title if overview.title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for axis in overview.axes:
        table.add_column(axis, no_wrap=True)
    shown = tuple(metrics)
    for name in shown:
        heading = metric_title(name).partition(",")[0].lower()
        table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True, style="dim")
    for target in overview.targets:
        cells = [cell for name in shown for cell in _cells(target, name)]
        mark = Text(MARKS[target.status], style=COLOURS[target.status])
        table.add_row(mark, *(Text(value) for value in overview.place(target)), *cells)
    return table


def _cells(target: TargetReport, name: str) -> tuple[str, str]:
    """A metric's value and its change from the reference."""
    metric = target.metrics.get(name)
    if metric is None:
        return "", ""
    return show(metric.value, metric.unit), show_delta(metric.delta, metric.unit, metric.comparison)


def _reasons(target: TargetReport) -> list[str]:
    """Why a target did not pass; empty when it did."""
    if target.status == "pass":
        return []
    messages = [check.message for check in target.checks if check.status != "pass"]
    return [f"{target.name}: {text}" for text in (target.explanation, *messages) if text]


def _notes(targets: Iterable[TargetReport]) -> dict[str, int]:
    """Each note once, with how many of the targets have it."""
    counts: dict[str, int] = {}
    for target in targets:
        for note in dict.fromkeys(target.notes):
            counts[note] = counts.get(note, 0) + 1
    return counts
