"""Past runs, and nodes in them, as tables of fixed columns and as JSON."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import click

from ..executions import HIT, ratios
from ..past import show_time
from ..units import show_bytes, show_seconds, significant
from .overview import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..executions import Execution
    from ..past import PastRun

STATES = {"built": "green", "hit": "cyan", "failed": "red", "blocked": "yellow"}
WORDS = {"hit": "cached"}


def show_runs(runs: Sequence[PastRun]) -> str:
    """A line a run, newest first."""
    if not runs:
        return "there are no runs yet; `ingot demo` or `ingot run` makes one"
    head = f"{'RUN':<28}{'STARTED':<25}{'TOOK':>12}  {'VERDICT':<13}"
    lines = [f"{head}{'BUILT':>6}{'CACHED':>8}{'FAILED':>8}  TARGETS"]
    for past in runs:
        verdict = click.style(f"{past.verdict:<13}", fg=COLOURS.get(past.verdict, "yellow"))
        when = f"{show_time(past.started):<25}{show_seconds(past.seconds):>12}"
        counts = f"{past.count('built'):>6}{past.count('hit'):>8}{past.count('failed'):>8}"
        lines.append(f"{past.run:<28}{when}  {verdict}{counts}  {', '.join(past.targets)}")
    return "\n".join(lines)


def runs_json(runs: Sequence[PastRun]) -> list[dict[str, object]]:
    """The runs as plain values."""
    return [
        {
            "run": past.run,
            "started": past.started,
            "seconds": past.seconds,
            "state": past.state,
            "verdict": past.verdict,
            **{name: past.count(name) for name in ("built", "hit", "failed", "blocked")},
            "targets": list(past.targets),
        }
        for past in runs
    ]


def show_rows(rows: Sequence[Execution], run: str | None) -> str:
    """A line for each row: the nodes of a ``run``, or a node in every run when it is None."""
    if not rows:
        return f"no node of the run {run} came to an end"
    name = max((len(_subject(row, run)) for row in rows), default=0)
    head = "NODE" if run else "RUN"
    costs = f"{'TOOK':>12}{'PREDICTED':>12}{'MEMORY':>10}{'PREDICTED':>11}"
    lines = [f"{head:<{name}}  {'STATE':<9}{costs}  {'KEY':<12}  WHY"]
    lines += [_line(row, run, name) for row in rows]
    totals = _totals(rows, run)
    return "\n".join([*lines, *([""] if totals else []), *totals])


def _line(row: Execution, run: str | None, name: int) -> str:
    state = click.style(f"{WORDS.get(row.state, row.state):<9}", fg=STATES.get(row.state))
    took = f"{_seconds(row.seconds):>12}{_seconds(row.expected_seconds):>12}"
    memory = f"{_bytes(row.max_rss_bytes):>10}{_bytes(row.expected_rss_bytes):>11}"
    # What a hit shows was spent by another run.
    costs = click.style(f"{took}{memory}", dim=row.state == HIT)
    return f"{_subject(row, run):<{name}}  {state}{costs}  {(row.key or '')[:12]:<12}  {row.reason}".rstrip()


def _totals(rows: Sequence[Execution], run: str | None) -> list[str]:
    counts = {state: [row for row in rows if row.state == state] for state in STATES}
    parts = []
    for state, found in counts.items():
        if found:
            seconds = sum(row.seconds or 0 for row in found)
            spent = " that another run had spent" if state == HIT else ""
            cost = f" ({show_seconds(seconds)}{spent})" if seconds else ""
            parts.append(f"{len(found)} {WORDS.get(state, state)}{cost}")
    lines = [", ".join(parts)] if run else []
    off = ratios(rows)
    if off:
        low, middle, high = (significant(each, 2) for each in (off[0], statistics.median(off), off[-1]))
        spread = f", from {low} to {high} ×" if len(off) > 1 else ""
        lines.append(f"predicted from past runs: {len(off)}, which took {middle} × as long{spread}")
    return lines


def _subject(row: Execution, run: str | None) -> str:
    return row.node if run else row.run


def _seconds(value: float | None) -> str:
    return "" if value is None else show_seconds(value)


def _bytes(value: int | None) -> str:
    return "" if value is None else show_bytes(value)
