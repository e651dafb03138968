"""Measures deliveries side by side, outside of any run: what `ingot bench` prints."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..stages.validate.cost import MODEL_FILES, CostParams, Series, measure, quantiles
from ..stages.validate.sweep import Cell, measure_sweep
from ..targets import profile as profiles
from ..targets.host import physical_cores
from .delivery_manifest import read_manifest
from .measurements import SweepCell, sweep_cells

if TYPE_CHECKING:
    from pathlib import Path

TIMES = ("prefill_ms", "decode_ms")
# What a sweep takes where nothing says its sizes: doubling shows where a device is full.
SIZES: Mapping[str, tuple[int, ...]] = {"batch": (1, 2, 4, 8), "sequence": (32, 128, 512)}


@dataclass(frozen=True)
class BenchRow:
    """One model. load_ms, tokens_per_second, peak_memory_bytes: medians.  times: quantiles by metric.

    samples: single prefills and single decoded tokens, in ms, in the order in which they were taken.
    """

    name: str
    size_bytes: int
    load_ms: float
    tokens_per_second: float
    peak_memory_bytes: float
    times: Mapping[str, Mapping[str, float]]
    samples: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Bench:
    """What was measured, with how many threads and tokens, by which runtime.

    sweep: its cells, whose sides are the models.  left_out: cells that a model's context has no room for.
    """

    rows: tuple[BenchRow, ...]
    threads: int
    prefill_tokens: int
    decode_tokens: int
    runtime: str
    sweep: tuple[SweepCell, ...] = ()
    left_out: tuple[Cell, ...] = ()

    @property
    def conditions(self) -> str:
        """What the figures are of, in a line."""
        what = f"prefill of {self.prefill_tokens} tokens"
        if self.decode_tokens:
            what += f", {self.decode_tokens} tokens decoded after it"
        return f"{what}, {self.threads} threads, {self.runtime}"

    @property
    def left_out_sentence(self) -> str:
        """Which sequences of the sweep were not measured, and why; empty where all were."""
        if not self.left_out:
            return ""
        lengths = ", ".join(map(str, sorted({cell.sequence for cell in self.left_out})))
        return f"left out of the sweep, since a model's context has no room for them: sequences of {lengths}"


def bench(directories: Mapping[str, Path], params: CostParams, progress: Callable[[int, int], None]) -> Bench:
    """Measures the models in ``directories`` in turns, as `validate.cost` does, and sweeps if asked to.

    progress: is told of repeats and cells of the sweep, done and in all.

    Raises the errors of the runtime for what it cannot open, and StageError when a measuring process dies.
    """
    threads = params.threads or physical_cores()
    series = Series()
    names = list(directories)
    total = params.repeats + len(params.sweep)
    for repeat in range(params.repeats):
        progress(repeat, total)
        order = names if repeat % 2 == 0 else names[::-1]
        plan, about = measure(series, {name: str(directories[name]) for name in order}, params, threads)
    cells, left_out = _sweep(
        directories, params, threads, lambda done: progress(params.repeats + done, total)
    )
    progress(total, total)
    rows = tuple(_row(name, directories[name], series) for name in names)
    runtime = f"{about['runtime']} {about['runtime_version']}"
    return Bench(rows, threads, plan.prefill_tokens, plan.decode_tokens, runtime, cells, left_out)


def sweep_sizes(directories: Iterable[Path], axis: str) -> tuple[int, ...]:
    """The sizes of an axis, `batch` or `sequence`, that the profiles of deliveries validate, all together;
    SIZES where none says any, as of an artifact of the store.
    """
    found: set[int] = set()
    for directory in directories:
        manifest = read_manifest(directory)
        name = manifest.get("profile") if manifest else None
        # Not a profile of a file: a delivery may be anybody's.
        if name in profiles.names():
            found.update(getattr(profiles.get(str(name)).verify, axis) or ())
    return tuple(sorted(found)) or SIZES[axis]


def to_json(measured: Bench) -> dict[str, object]:
    """What `ingot bench --json` prints: everything but single samples."""
    plain = asdict(measured)
    for row in plain["rows"]:
        del row["samples"]
    return plain


def _sweep(
    directories: Mapping[str, Path], params: CostParams, threads: int, progress: Callable[[int], None]
) -> tuple[tuple[SweepCell, ...], tuple[Cell, ...]]:
    if not params.sweep:
        return (), ()
    found = measure_sweep(
        {name: str(path) for name, path in directories.items()},
        params.sweep,
        passes=params.passes,
        threads=threads,
        device=params.device,
        progress=lambda done, _total: progress(done),
    )
    return sweep_cells(found.to_json()), found.left_out


def _row(name: str, directory: Path, series: Series) -> BenchRow:
    samples = {metric: sides[name] for metric, sides in series.samples.items()}
    spread = {"prefill_ms": samples["prefill_ms"], "decode_ms": series.steps.get(name, [])}
    return BenchRow(
        name,
        sum(path.stat().st_size for path in directory.iterdir() if path.name.startswith(MODEL_FILES)),
        statistics.median(samples["load_ms"]),
        statistics.median(samples["tokens_per_second"]),
        statistics.median(samples["peak_memory_bytes"]),
        {metric: quantiles(spread[metric]) for metric in TIMES if spread[metric]},
        {metric: tuple(spread[metric]) for metric in TIMES if spread[metric]},
    )
