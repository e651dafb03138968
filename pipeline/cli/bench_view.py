"""The figures of `ingot bench` as tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..units import MISSING, show, show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from ..bench import Bench
    from ..measurements import SweepCell

HEADINGS = (
    "size",
    "load",
    "prefill p50",
    "p95",
    "p99",
    "decode p50",
    "p95",
    "p99",
    "tokens/s",
    "peak memory",
)
SWEEP_HEADINGS = ("prefill p50", "p95", "tokens/s", "step p50", "p95", "tokens/s")
WIDTH = 140


def show_bench(measured: Bench) -> None:
    """Prints one line a model, what the figures are of, and the sweep where there is one."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    table = _table(("", *HEADINGS))
    for row in measured.rows:
        cells = [show_bytes(row.size_bytes), show(row.load_ms, "ms")]
        for metric in ("prefill_ms", "decode_ms"):
            times = row.times.get(metric, {})
            cells += [show(times.get(quantile), "ms") for quantile in ("p50", "p95", "p99")]
        cells += [show(row.tokens_per_second, ""), show_bytes(row.peak_memory_bytes)]
        table.add_row(row.name, *cells)
    console.print(table)
    click.echo(measured.conditions)
    if measured.sweep:
        console.print(sweep_table(measured.sweep, [row.name for row in measured.rows]))
    if measured.left_out:
        click.echo(measured.left_out_sentence)


def sweep_table(cells: Iterable[SweepCell], models: list[str]) -> Table:
    """A line a cell and model; a cell's batch and sequence stand at its first model alone."""
    # One model needs no naming.
    named = len(models) > 1
    table = _table(("batch", "sequence", *(("",) if named else ()), *SWEEP_HEADINGS))
    for cell in cells:
        for model in models:
            place = (str(cell.batch), str(cell.sequence)) if model == models[0] else ("", "")
            table.add_row(
                *place,
                *((model,) if named else ()),
                *_side(cell, model),
                end_section=model == models[-1] and named,
            )
    return table


def _side(cell: SweepCell, model: str) -> Iterable[str]:
    for metric in ("prefill_ms", "decode_ms"):
        found = cell.sides[model].get(metric)
        yield from (show(found.p50, "ms"), show(found.p95, "ms")) if found else (MISSING, MISSING)
        yield show(cell.tokens_per_second(model, metric), "")


def _table(headings: Iterable[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    return table
