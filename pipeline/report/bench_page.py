"""The page of `ingot bench --html`: what was measured, how it is spread, and the sweep, in one file."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ...artifacts.files import storage, write_whole
from ..units import show, show_bytes
from . import curves, heat
from .figures import SWEEP_TITLES, Figure
from .parts import percentiles
from .svg import Fragment
from .sweep_lines import sweep_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import jinja2

    from ..bench import Bench

TITLES = {"prefill_ms": "prefill", "decode_ms": "one decoded token"}


def write_page(measured: Bench, path: Path, *, command: str, environment: Mapping[str, str]) -> None:
    """Writes the page; raises StoreError when the disk refuses."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, render_page(measured, command=command, environment=environment))


def render_page(measured: Bench, *, command: str, environment: Mapping[str, str]) -> str:
    """The page. command: what measured it.  environment: label → value of this machine."""
    return _template().render(
        bench=measured,
        spreads=list(_spreads(measured)),
        sweeps=list(_sweeps(measured)),
        command=command,
        environment=environment,
    )


@functools.cache
def _template() -> jinja2.Template:
    from .templates import environment as new_environment
    from .templates import stylesheet

    found = new_environment()
    found.filters |= {"show": show, "bytes": show_bytes}
    found.globals |= {"style": Fragment(stylesheet())}
    return found.get_template("bench.html.j2")


def _spreads(measured: Bench) -> Iterator[Figure]:
    """Every model's times, those of the others faint behind."""
    for metric, title in TITLES.items():
        found = {
            row.name: percentiles(list(row.samples[metric]))
            for row in measured.rows
            if row.samples.get(metric)
        }
        for name, curve in found.items():
            others = [other for model, other in found.items() if model != name]
            label = f"{name}: {title}"
            yield Figure(label, curves.cumulative(label, "ms", {name: curve}, others))


def _sweeps(measured: Bench) -> Iterator[Figure]:
    """Every model's cells; all but the first are compared with the first."""
    names = [row.name for row in measured.rows]
    for metric, title in SWEEP_TITLES.items():
        best = heat.best_rate(measured.sweep, names, metric)
        for name in names if best else ():
            base = None if name == names[0] else names[0]
            grid = heat.sweep_grid(measured.sweep, name, metric, base, best)
            yield Figure(f"{name}: {title}", grid)
            lines = sweep_lines(measured.sweep, name, metric, base)
            if lines is not None:
                yield Figure(f"{name}: {title}, latency by throughput", lines)
