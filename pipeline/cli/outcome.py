"""The end of a run on the terminal: verdict, a table of each target against the reference, and the paths."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..metrics import metric_title, place_in_table
from ..report.emulated import sentence
from ..report.overview import alone, overviews
from ..units import show, show_delta
from .overview import COLOURS, MARKS, show_overview

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from ..gate import MetricResult
    from ..report.model import TargetReport
    from ..run import Run

WIDTH = 100
UNBOUNDED = 1000
INTERVAL = "90 % interval"
# The columns of the table, and those that are left on ever narrower terminals.
CHOICES = (
    ("reference", "artifact", "change", INTERVAL),
    ("reference", "artifact", "change"),
    ("artifact", "change"),
)


def show_run(finished: Run) -> None:
    """Prints every target's table, its reasons where it did not pass, and where things lie."""
    from rich.console import Console

    # A pipe has no width; the table needs this much.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    targets = finished.report.targets
    for overview in overviews(targets):
        show_overview(overview, console)
    for target in alone(targets):
        click.echo()
        if target.metrics:
            with console.capture() as drawn:
                console.print(fitting_table(target, console))
            click.echo(drawn.get(), nl=False, file=sys.stdout)
        verdict = click.style(f" {target.status.upper()} ", fg="white", bg=COLOURS[target.status], bold=True)
        click.echo(f"{verdict} {target.name}" + (f": {target.explanation}" if target.explanation else ""))
        for check in target.checks:
            click.echo(f"  {click.style(MARKS[check.status], fg=COLOURS[check.status])} {check.message}")
        for emulated in target.emulated:
            click.echo(f"  {sentence(emulated)}")
        for note in target.notes:
            click.echo(f"  note: {note}")
    click.echo()
    for note in finished.report.notes:
        click.echo(f"note:      {note}")
    for target in targets.values():
        if target.delivery is not None or target.cell_of is None:
            click.echo(f"delivery:  {target.delivery or f'none for {target.name} ({target.status})'}")
    click.echo(f"report:    {finished.report_path}")


def fitting_table(target: TargetReport, console: Console) -> Table:
    """The table of a target with as many of its columns as the terminal has room for."""
    unbounded = console.options.update(max_width=UNBOUNDED)
    tables = [metric_table(target, headings) for headings in CHOICES]
    fitting = (
        table for table in tables if console.measure(table, options=unbounded).maximum <= console.width
    )
    return next(fitting, tables[-1])


def metric_table(target: TargetReport, headings: Sequence[str]) -> Table:
    """A line a metric with the columns that ``headings`` name."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    title = f"{escape(target.name)}  [dim]{target.format}[/dim]"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, style="dim" if heading == INTERVAL else None)
    for name in sorted(target.metrics, key=place_in_table):
        cells = _cells(target.metrics[name])
        table.add_row(metric_title(name), *(cells[heading] for heading in headings))
    return table


def _cells(metric: MetricResult) -> dict[str, str]:
    """A metric's cells by the heading of their column."""
    interval = ""
    if metric.low is not None and metric.high is not None and metric.low != metric.high:
        unit = metric.unit if metric.unit == "fraction" else ""
        low, high = (show_delta(edge, unit, metric.comparison) for edge in (metric.low, metric.high))
        interval = f"{low} … {high}"
    return {
        "reference": show(metric.reference, metric.unit),
        "artifact": show(metric.value, metric.unit),
        "change": show_delta(metric.delta, metric.unit, metric.comparison),
        INTERVAL: interval,
    }
