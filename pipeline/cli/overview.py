"""Many targets on the terminal: a line each, then what did not pass and what may be chosen."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ..metrics import QUALITY, metric_title
from ..units import THIN, show, show_delta, show_interval

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

    from ..report.model import TargetReport
    from ..report.overview import Overview

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "unverified": "○", "error": "!"}
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unverified": "yellow", "error": "red"}
VALUE, CHANGE, INTERVAL = "value", "change", "interval"
HEADINGS = {"size_bytes": "size", "decode_ms": "decode", "peak_memory_bytes": "memory"}


@dataclass(frozen=True)
class Form:
    """What a line says of a metric: of quality, of size, and of all others."""

    quality: tuple[str, ...]
    size: tuple[str, ...]
    others: tuple[str, ...]

    def parts(self, metric: str) -> tuple[str, ...]:
        """What is said of one metric."""
        return self.quality if metric in QUALITY else self.size if metric == "size_bytes" else self.others


# From the widest to the narrowest: a change of quality is worth more than milliseconds.
FORMS = (
    Form((VALUE, CHANGE, INTERVAL), (VALUE, CHANGE), (VALUE, CHANGE)),
    Form((CHANGE, INTERVAL), (VALUE, CHANGE), (VALUE, CHANGE)),
    Form((CHANGE, INTERVAL), (VALUE,), (VALUE, CHANGE)),
    Form((CHANGE, INTERVAL), (VALUE,), (CHANGE,)),
    Form((CHANGE,), (VALUE,), (CHANGE,)),
)


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
        size = _cell(best, "size_bytes", VALUE)
        click.echo(f"  the smallest that passes: {best.name}, {size}")
        if best.delivery is None:
            click.echo(f"  deliver it, or another: --select {shlex.quote(best.name)}")


def _fitting(overview: Overview, console: Console) -> Table:
    """The fullest table that the terminal has room for; the last metrics are left out where none has."""
    unbounded = console.options.update(max_width=1000)
    shorter = ((overview.metrics[:count], FORMS[-1]) for count in range(len(overview.metrics) - 1, 0, -1))
    for metrics, form in (*((overview.metrics, form) for form in FORMS), *shorter):
        table = _table(overview, metrics, form)
        if console.measure(table, options=unbounded).maximum <= console.width:
            return table
    return _table(overview, (), FORMS[-1])


def _table(overview: Overview, metrics: Iterable[str], form: Form) -> Table:
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
        heading = HEADINGS.get(name) or metric_title(name).lower()
        for place in range(len(form.parts(name))):
            style = "dim" if place else None
            table.add_column("" if place else heading, justify="right", no_wrap=True, style=style)
    for target in overview.targets:
        cells = [_cell(target, name, part) for name in shown for part in form.parts(name)]
        mark = Text(MARKS[target.status], style=COLOURS[target.status])
        table.add_row(mark, *(Text(value) for value in overview.place(target)), *cells)
    return table


def _cell(target: TargetReport, name: str, part: str) -> str:
    """A metric's value, its change from the reference, or the interval of that; empty where it has none."""
    metric = target.metrics.get(name)
    if metric is None:
        return ""
    if part == VALUE:
        return show(metric.value, metric.unit)
    if part == CHANGE:
        return show_delta(metric.delta, metric.unit, metric.comparison)
    # The change beside it has the unit.
    return show_interval(metric.low, metric.high, metric.unit, metric.comparison).partition(THIN)[0]


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
