"""The figures of `ingot bench` as a table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..units import show, show_bytes

if TYPE_CHECKING:
    from ..bench import Bench

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


def show_bench(measured: Bench) -> None:
    """Prints one line a model, and what the figures are of."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in measured.rows:
        cells = [show_bytes(row.size_bytes), show(row.load_ms, "ms")]
        for metric in ("prefill_ms", "decode_ms"):
            times = row.times.get(metric, {})
            cells += [show(times.get(quantile), "ms") for quantile in ("p50", "p95", "p99")]
        cells += [show(row.tokens_per_second, ""), show_bytes(row.peak_memory_bytes)]
        table.add_row(row.name, *cells)
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
    what = f"prefill of {measured.prefill_tokens} tokens"
    if measured.decode_tokens:
        what += f", {measured.decode_tokens} tokens decoded after it"
    click.echo(f"{what}, {measured.threads} threads, {measured.runtime}")
