"""`validate.cost`: size, load time, latency, throughput and peak memory of an artifact beside its
reference.

Times on a shared machine drift by more than artifacts differ, so both sides run side by side: in each
repeat both have a fresh process, and they take turns at every prefill and decode, the first turn
alternating. Samples at one place of the two lists were taken together, and comparisons are between those.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ...targets.nvml import Watch
from ...targets.runtimes.program import CUDA
from ..base import DELIVERED, RUNNABLE, Context, Result, stage
from .device import DEVICE_DOC, DEVICES, FORMAT_DOC, SM_DOC, requirements, versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...artifacts.manifest import Artifact
    from ...targets.host import Host
    from .cost_side import SideProcess
    from .sweep import Cell, Sweep

# Graphs and what lies beside them, such as model.onnx.data.
MODEL_FILES = (
    "model.onnx", "encoder.onnx", "model.engine", "encoder.engine", "weights.safetensors",
    "prefill.pt2", "head.pt2", "decode.pt2",
)  # fmt: skip
# Above this share of the processor used by others, timings are rough and the report must say so.
BUSY_SHARE = 0.25
BUSY_SECONDS = 0.3


@dataclass(frozen=True)
class CostParams:
    """Parameters of `validate.cost`."""

    prefill_tokens: int = param(
        128, minimum=1, doc="tokens of the prompt; 128 is a short question, and fits small contexts"
    )
    decode_tokens: int = param(
        32, minimum=1, doc="tokens decoded after each prefill; 32 average out a timer's noise"
    )
    repeats: int = param(
        5, minimum=1, doc="fresh processes a side; 5 give loads and peak memory a median and some spread"
    )
    passes: int = param(
        4, minimum=1, doc="prefills and decodes in each process; 4, so that 20 of each are compared"
    )
    threads: int = param(
        0, minimum=0, doc="threads of the runtime; 0 is one a physical core, as dense arithmetic likes it"
    )
    sweep_batch: tuple[int, ...] = param(
        (), doc="batches of a sweep, such as [1, 2, 4]; none, since a sweep takes as long as all the rest"
    )
    sweep_sequence: tuple[int, ...] = param(
        (), doc="sequences of a sweep in tokens, such as [32, 128]; none, as for its batches"
    )
    device: str = param("cpu", choices=DEVICES, doc=DEVICE_DOC)
    format: str = param("", internal=True, doc=FORMAT_DOC)
    sm: int = param(0, internal=True, doc=SM_DOC)

    def __post_init__(self) -> None:
        """Raises RecipeError for a batch or a sequence of nothing."""
        for name in ("sweep_batch", "sweep_sequence"):
            for value in getattr(self, name):
                if value < 1:
                    raise RecipeError(f"cost.{name}: {value} is below 1")

    @property
    def sweep(self) -> tuple[Cell, ...]:
        """The cells of the sweep: one sequence at a time, or the length of the prompt, where only the other
        is asked for; empty when neither is.
        """
        from .sweep import cells

        if not self.sweep_batch and not self.sweep_sequence:
            return ()
        return cells(self.sweep_batch or (1,), self.sweep_sequence or (self.prefill_tokens,))


@dataclass(frozen=True)
class Plan:
    """What is measured: the parameters, fitted to the model's task and context."""

    task: str
    prefill_tokens: int
    decode_tokens: int


@dataclass(frozen=True)
class Series:
    """Samples by metric and side, in the order in which they were taken.

    steps: the times of single decoded tokens, in ms, by side.  device: times by a GPU's own clock, in ms.
    """

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    steps: dict[str, list[float]] = field(default_factory=dict)
    device: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, side: str, value: float) -> None:
        """Appends one sample."""
        self.samples.setdefault(name, {}).setdefault(side, []).append(value)

    def add_device(self, name: str, side: str, values: Sequence[float]) -> None:
        """Appends times by a GPU's own clock, where there are any."""
        if values:
            self.device.setdefault(name, {}).setdefault(side, []).extend(values)


@stage(
    "validate.cost",
    params=CostParams,
    inputs={
        "artifact": (*RUNNABLE, *DELIVERED),
        "reference": (*RUNNABLE, *DELIVERED),
        "source": ("checkpoint", "quantized-checkpoint"),
    },
    many={"shipped": ("adapter",)},
    output="measurements",
    version=1,
    determinism="nondeterministic",
    tools=("numpy", "onnxruntime"),
    summary="Size, load time, prefill and decode latency, throughput and peak memory, both sides in turns",
    requires=requirements,
    versions=versions,
    host_bound=True,
    exclusive=True,
    any_architecture=True,
    takes_compact=True,
)
def run(context: Context[CostParams]) -> Result:
    """Writes metrics with their distributions, samples, the times of single decoded tokens, and a sweep.

    reference: the unmodified model in the same runtime; without it, as on a machine that has the delivery
    alone, metrics have a value and no reference.  source: its checkpoint, whose safetensors are what
    size is compared with. A metric's value is the median of its samples; decode_ms is a pass's mean time of a
    token, while its distribution is over single tokens; tokens_per_second is of decoding (encoders: prefill).
    The prefill of an encoder-decoder encodes a source and computes the first token of its target.
    peak_memory_bytes is of the whole process, Python and runtime included.  shipped1: what is delivered,
    where that is not what runs: its size counts, as of an adapter, which is measured folded into its base.
    """
    from ...targets.host import physical_cores, probe
    from . import measures

    params = context.params
    threads = params.threads or physical_cores()
    busy = _busy_share()
    if busy > BUSY_SHARE:
        context.note(
            f"other programs used {busy:.0%} of the processor when cost was measured: its times are rough"
        )
    sides = {"reference": "reference", "value": "artifact"}
    directories = {side: context.inputs[name].path for side, name in sides.items() if name in context.inputs}
    series = Series()
    with Watch() if params.device == CUDA else contextlib.nullcontext() as watch:
        for repeat in range(params.repeats):
            context.progress(repeat, params.repeats, "repeats")
            order = list(directories) if repeat % 2 == 0 else list(directories)[::-1]
            plan, about = measure(series, {side: str(directories[side]) for side in order}, params, threads)
    context.progress(params.repeats, params.repeats, "repeats")
    if watch is not None and not watch.samples:
        context.note("the GPU's utilisation was not measured: the driver's NVML does not answer")
    swept = _sweep(context, {side: str(path) for side, path in directories.items()}, threads)
    host = probe()
    document = {
        "metrics": {
            "size_bytes": artifact_size(
                context.inputs.get("shipped1", context.inputs["artifact"]), context.inputs["source"]
            ),
            **_metrics(series, plan.task),
        },
        "data": {
            "prefill_tokens": plan.prefill_tokens,
            "decode_tokens": plan.decode_tokens,
            "repeats": params.repeats,
            "passes": params.passes,
            **({} if "reference" in directories else {"alone": True}),
        },
        **({"sweep": swept.to_json()} if swept else {}),
        "environment": {
            **about,
            "threads": threads,
            "processor": host.processor,
            "cores": host.cores,
            "isa": list(host.isa),
            "busy_share": round(busy, 3),
            **({"gpu": _gpu(host, watch, series)} if watch is not None else {}),
        },
    }
    samples = {**series.samples, **({"decode_step_ms": series.steps} if series.steps else {})}
    measures.write(context.output, "cost", plan.task, document, samples)
    return Result(facts={"measures": "cost", "task": plan.task})


def _gpu(host: Host, watch: Watch, series: Series) -> dict[str, object]:
    """The GPU that times were taken on: what it is, what it did meanwhile, and times by its own clock.

    prefill_device_ms, decode_device_ms: between events of the device around what a call computes, by side,
    without what moves to and from the host.
    """
    first = next(iter(host.gpus), None)
    times = {
        name: {side: quantiles(values) for side, values in sides.items()}
        for name, sides in series.device.items()
    }
    return {**(first.facets() if first else {}), **watch.summary(), **times}


def _sweep(context: Context[CostParams], directories: Mapping[str, str], threads: int) -> Sweep | None:
    """The sweep that the parameters ask for; a note says what a model's context has no room for."""
    from .sweep import measure_sweep

    params = context.params
    if not params.sweep:
        return None
    found = measure_sweep(
        directories,
        params.sweep,
        passes=params.passes,
        threads=threads,
        device=params.device,
        progress=lambda done, total: context.progress(done, total, "cells of the sweep"),
    )
    if found.left_out:
        lengths = ", ".join(map(str, sorted({cell.sequence for cell in found.left_out})))
        context.note(f"the sweep leaves out sequences that the model's context has no room for: {lengths}")
    return found


def _busy_share() -> float:
    """The share of the processor that is in use while this process waits."""
    import psutil

    return float(psutil.cpu_percent(interval=BUSY_SECONDS)) / 100


def artifact_size(artifact: Artifact, source: Artifact) -> dict[str, object]:
    """What is opened, with its weights, against the safetensors it came from, without tokenizer and configs.

    An artifact that holds the model in more than one format states which files count (`model_files`).
    """
    from .measures import metric

    stated = artifact.facts.get("model_files")
    names = tuple(map(str, stated)) if isinstance(stated, list) else MODEL_FILES
    if artifact.kind == "adapter":
        names = ("adapter_model.safetensors",)
    value = sum(file.size for file in artifact.record.files if file.path.startswith(names))
    reference = float(str(source.facts["weight_bytes"]))
    return metric("bytes", "lower", "relative", reference, value, n=1)


def measure(
    series: Series, directories: Mapping[str, str], params: CostParams, threads: int
) -> tuple[Plan, dict[str, object]]:
    """Adds one repeat to ``series``: a fresh process a side, in the given order, taking turns.

    Gives what was run, fitted to the first side's context, and in which environment.
    """
    from .cost_side import SideProcess

    opened: dict[str, SideProcess] = {}
    try:
        for side, directory in directories.items():
            opened[side] = SideProcess(directory, threads, params.device)
        for process in opened.values():
            # A neighbour that is still importing would slow the first load.
            process.wait_until_ready()
        loaded = {}
        for side, process in opened.items():
            loaded[side] = process.ask("load")
            series.add("load_ms", side, float(str(loaded[side]["ms"])))
        about = loaded[next(iter(directories))]
        plan = fit(params, str(about["task"]), int(str(about["context"])))
        for process in opened.values():
            # The first run of a graph allocates; what follows is what a user of a running program meets.
            process.ask("prefill", plan.prefill_tokens)
        for number in range(params.passes):
            turns = list(opened) if number % 2 == 0 else list(opened)[::-1]
            for side in turns:
                _pass(series, side, opened[side], plan)
        baseline = 0
        for side, process in opened.items():
            memory = process.ask("memory")
            baseline = int(str(memory["baseline_bytes"]))
            series.add("peak_memory_bytes", side, float(str(memory["peak_bytes"])))
            if "device_bytes" in memory:
                series.add("device_memory_bytes", side, float(str(memory["device_bytes"])))
    finally:
        for process in opened.values():
            process.close()
    names = ("runtime", "runtime_version")
    return plan, {**{name: about[name] for name in names}, "empty_process_bytes": baseline}


def fit(params: CostParams, task: str, context: int) -> Plan:
    """The plan for a model's context: decoding takes half of it at most, and the prompt what remains.

    The source of an encoder-decoder is its prompt, and leaves the target a context of its own.
    """
    if task == "encoder":
        return Plan(task, min(params.prefill_tokens, context), 0)
    if task == "seq2seq-lm":
        decode = max(1, min(params.decode_tokens, context - 1))
        return Plan(task, min(params.prefill_tokens, context), decode)
    decode = min(params.decode_tokens, max(1, context // 2))
    return Plan(task, max(1, min(params.prefill_tokens, context - decode)), decode)


def _pass(series: Series, side: str, process: SideProcess, plan: Plan) -> None:
    """One prefill and, where the model decodes, its tokens."""
    prefill = process.ask_ms("prefill", plan.prefill_tokens)[0]
    series.add("prefill_ms", side, prefill)
    series.add_device("prefill_device_ms", side, process.device_ms)
    if not plan.decode_tokens:
        series.add("tokens_per_second", side, plan.prefill_tokens / prefill * 1e3)
        return
    steps = process.ask_ms("decode", plan.decode_tokens)
    series.add_device("decode_device_ms", side, process.device_ms)
    mean = sum(steps) / len(steps)
    series.steps.setdefault(side, []).extend(steps)
    series.add("decode_ms", side, mean)
    series.add("tokens_per_second", side, 1e3 / mean)


def _metrics(series: Series, task: str) -> dict[str, dict[str, object]]:
    from statistics import median

    from .measures import metric

    shape: dict[str, tuple[str, str]] = {
        "load_ms": ("ms", "lower"),
        "prefill_ms": ("ms", "lower"),
        "decode_ms": ("ms", "lower"),
        "tokens_per_second": ("tokens/s", "higher"),
        "peak_memory_bytes": ("bytes", "lower"),
        "device_memory_bytes": ("bytes", "lower"),
    }
    if task == "encoder":
        del shape["decode_ms"]
    metrics = {}
    for name, (unit, better) in shape.items():
        if name not in series.samples:
            continue
        sides = series.samples[name]
        spread = series.steps if name == "decode_ms" else sides
        metrics[name] = metric(
            unit,
            better,
            "relative",
            median(sides["reference"]) if "reference" in sides else None,
            median(sides["value"]),
            n=len(sides["value"]),
            distribution={side: quantiles(spread[side]) for side in sides},
        )
    return metrics


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99 by linear interpolation between samples, and how many samples there are."""
    import numpy as np

    p50, p95, p99 = (float(value) for value in np.quantile(values, (0.5, 0.95, 0.99)))
    return {"p50": p50, "p95": p95, "p99": p99, "n": len(values)}
