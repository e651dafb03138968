"""Measures deliveries side by side, outside of any run: what `ingot bench` prints."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..stages.validate.cost import CostParams, Series, measure, quantiles
from ..targets.host import physical_cores

if TYPE_CHECKING:
    from pathlib import Path

TIMES = ("prefill_ms", "decode_ms")


@dataclass(frozen=True)
class BenchRow:
    """One model. load_ms, tokens_per_second, peak_memory_bytes: medians.  times: quantiles by metric."""

    name: str
    size_bytes: int
    load_ms: float
    tokens_per_second: float
    peak_memory_bytes: float
    times: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Bench:
    """What was measured, with how many threads and tokens, by which runtime."""

    rows: tuple[BenchRow, ...]
    threads: int
    prefill_tokens: int
    decode_tokens: int
    runtime: str


def bench(directories: Mapping[str, Path], params: CostParams, progress: Callable[[int, int], None]) -> Bench:
    """Measures the models in ``directories`` in turns, as `validate.cost` does.

    Raises the errors of the runtime for what it cannot open, and StageError when a measuring process dies.
    """
    threads = params.threads or physical_cores()
    series = Series()
    names = list(directories)
    for repeat in range(params.repeats):
        progress(repeat, params.repeats)
        order = names if repeat % 2 == 0 else names[::-1]
        plan, about = measure(series, {name: str(directories[name]) for name in order}, params, threads)
    progress(params.repeats, params.repeats)
    rows = tuple(_row(name, directories[name], series) for name in names)
    runtime = f"{about['runtime']} {about['runtime_version']}"
    return Bench(rows, threads, plan.prefill_tokens, plan.decode_tokens, runtime)


def _row(name: str, directory: Path, series: Series) -> BenchRow:
    samples = {metric: sides[name] for metric, sides in series.samples.items()}
    spread = {"prefill_ms": samples["prefill_ms"], "decode_ms": series.steps.get(name, [])}
    return BenchRow(
        name,
        sum(path.stat().st_size for path in directory.glob("model.onnx*")),
        statistics.median(samples["load_ms"]),
        statistics.median(samples["tokens_per_second"]),
        statistics.median(samples["peak_memory_bytes"]),
        {metric: quantiles(spread[metric]) for metric in TIMES if spread[metric]},
    )
