"""The end of a run on the terminal: verdict, a table of each target against the reference, and the paths."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..metrics import METRICS
from ..units import show, show_delta

if TYPE_CHECKING:
    from rich.table import Table

    from ..gate import MetricResult
    from ..report.model import TargetReport
    from ..run import Run

WIDTH = 100
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unverified": "yellow", "error": "red"}


def show_run(finished: Run) -> None:
    """Prints every target's table, its reasons where it did not pass, and where things lie."""
    from rich.console import Console

    # A pipe has no width; the table needs this much.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for target in finished.report.targets.values():
        console.print()
        if target.metrics:
            console.print(metric_table(target))
        verdict = click.style(f" {target.status.upper()} ", fg="white", bg=COLOURS[target.status], bold=True)
        click.echo(f"{verdict} {target.name}" + (f": {target.explanation}" if target.explanation else ""))
        for check in target.checks:
            mark = {"pass": "✓", "fail": "✗"}.get(check.status, "?")
            click.echo(f"  {click.style(mark, fg=COLOURS[check.status])} {check.message}")
        for note in target.notes:
            click.echo(f"  note: {note}")
    click.echo()
    for note in finished.report.notes:
        click.echo(f"note:      {note}")
    for target in finished.report.targets.values():
        click.echo(f"delivery:  {target.delivery or f'none for {target.name} ({target.status})'}")
    click.echo(f"report:    {finished.report_path}")


def metric_table(target: TargetReport) -> Table:
    """Reference, artifact and difference with its interval, a line a metric."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{target.name}  [dim]{target.format}[/dim]", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("", no_wrap=True)
    for heading in ("reference", "artifact", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("90 % interval", justify="right", style="dim", no_wrap=True)
    order = list(METRICS)
    for name in sorted(target.metrics, key=lambda each: order.index(each) if each in order else len(order)):
        title = METRICS[name].title if name in METRICS else name
        table.add_row(title, *_cells(target.metrics[name]))
    return table


def _cells(metric: MetricResult) -> tuple[str, str, str, str]:
    interval = ""
    if metric.low is not None and metric.high is not None and metric.low != metric.high:
        unit = metric.unit if metric.unit == "fraction" else ""
        low, high = (show_delta(edge, unit, metric.comparison) for edge in (metric.low, metric.high))
        interval = f"{low} … {high}"
    return (
        show(metric.reference, metric.unit),
        show(metric.value, metric.unit),
        show_delta(metric.delta, metric.unit, metric.comparison),
        interval,
    )
