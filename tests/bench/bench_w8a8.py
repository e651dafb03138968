"""Int8 weights and activations through the exported graph: perplexity and speed of every way to scale them.

    python tests/bench/bench_w8a8.py --model DIR --calibration TEXT --evaluation TEXT
        [--rows NAME ...] [--windows 160] [--samples 128] [--repeats 20] [--workdir DIR]

Each row is a stage of Ingot, exported by `export.onnx` and run in onnxruntime on one thread: `dynamic` (a
scale a token), `static` (a grid from each observer; without a remedy, and with the default one), and
`smoothquant` with either. Perplexity is of windows of 256 tokens; "delta" is over the float32 graph, with the
paired standard error over windows. Milliseconds are of the processor, for a prefill of one window, the best
of turns that all graphs take one after the other; "speed" is the float32 graph's over a row's own.
With --workdir, artifacts are kept, and only what changed is made again.
Bars: dynamic and the default static within +0.3 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ingot.artifacts.digest import digest_json
from ingot.artifacts.schema import fields
from ingot.artifacts.store import Store
from ingot.pipeline.sources import source_digest
from ingot.stages import base
from ingot.stages.model.text import read_documents
from ingot.stages.model.tokens import encode, load_tokenizer, windows
from ingot.targets.runtimes import onnx as runtime
from machine import described, working_directory
from quantize_rows import WINDOW, Row, run_stage

if TYPE_CHECKING:
    from ingot.artifacts.manifest import Artifact
    from ingot.stages.model.tokens import Windows

BAR = math.log1p(0.003)
HELD = ("dynamic", "static")
KEPT: dict[str, object] = {"fallback": "static"}
# Name → quantize stage (none for float32), its parameters, those of the export.
ROWS: dict[str, tuple[str | None, dict[str, object], dict[str, object]]] = {
    "float32": (None, {}, {}),
    "dynamic": ("dynamic", {}, {}),
    "static-minmax": ("static", {"observer": "minmax", **KEPT}, {}),
    "static-percentile": ("static", {"observer": "percentile", **KEPT}, {}),
    "static-entropy": ("static", {"observer": "entropy", **KEPT}, {}),
    "static-mse": ("static", {"observer": "mse", **KEPT}, {}),
    "static-mse-sym": ("static", {"observer": "mse", "activation_sym": True, **KEPT}, {}),
    "static-best": ("static", {"observer": "best", **KEPT}, {}),
    "static": ("static", {}, {}),
    "smoothquant": ("smoothquant", {}, {}),
    "smoothquant-static-kept": ("smoothquant", {"activation": "static", **KEPT}, {}),
    "smoothquant-static": ("smoothquant", {"activation": "static"}, {}),
    "static-qdq": ("static", {"activation_sym": True}, {"quant_format": "qdq"}),
}


@dataclass
class Made:
    """An exported graph. row: its losses.  inputs: how many maps have static activations, and how many there
    are.  session: open, for the turns.
    """

    row: Row
    inputs: tuple[int, int]
    session: Any
    milliseconds: list[float] = field(default_factory=list)


def main() -> int:
    """Prints the table; 1 when a bar is not met."""
    options = _options()
    with described(), working_directory(options.workdir) as workdir:
        documents = encode(load_tokenizer(options.model), read_documents(options.evaluation))
        text = windows(documents, WINDOW).leading(options.windows)
        made = {name: _make(name, options, Path(workdir), text) for name in ("float32", *options.rows)}
        _take_turns(made, options.repeats)
        plain = made["float32"]
        print(f"{plain.row.predicted} predicted tokens in {text.count} windows\n")
        print(
            f"{'':<26}{'perplexity':>11}{'delta %':>9}{'se':>7}{'static':>9}{'ms':>8}{'speed':>7}{'CPU s':>8}"
        )
        for name, each in made.items():
            print(_line(name, each, plain))
        held = [name for name in HELD if name in made]
        met = [made[name].row.above(plain.row)[0] <= BAR for name in held]
    for name, is_met in zip(held, met, strict=True):
        print(f"{name} within +0.3 %: {'met' if is_met else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    named = [name for name in ROWS if name != "float32"]
    parser.add_argument("--rows", nargs="+", choices=named, default=named)
    parser.add_argument("--windows", type=int, default=160, help="of the evaluation text")
    parser.add_argument("--samples", type=int, default=128, help="windows of the calibration text")
    parser.add_argument("--repeats", type=int, default=20, help="turns that every graph takes")
    parser.add_argument("--workdir", type=Path, help="keeps the artifacts; temporary by default")
    return parser.parse_args()


def _make(name: str, options: argparse.Namespace, workdir: Path, text: Windows) -> Made:
    method, params, export = ROWS[name]
    store = Store.open(workdir / "store")
    source, seconds = run_stage(store, "load", {}, {"model": str(options.model)})[0], 0.0
    if method is not None:
        source, seconds = _quantized(store, workdir, source, f"quantize.{method}", params, options)
    graph, _ = run_stage(store, "export.onnx", {"model": source}, export)
    session = runtime.open(graph.path, threads=1)
    losses = np.zeros(text.count)
    for which, ids in text.batches(4 * WINDOW):
        losses[which] = _losses(session.logits(ids), ids)
    row = Row(losses, text.tokens - text.count, cpu_seconds=seconds)
    print(f"{name}: perplexity {row.perplexity:.4f}", file=sys.stderr, flush=True)
    return Made(row, _static_inputs(source.path), session)


def _quantized(
    store: Store,
    workdir: Path,
    source: Artifact,
    stage: str,
    params: dict[str, object],
    options: argparse.Namespace,
) -> tuple[Artifact, float]:
    """What a stage made, and the CPU seconds that it took; kept for the same source, parameters and texts."""
    if "calibration" in fields(base.get(stage).params):
        params = {**params, "samples": options.samples, "calibration": str(options.calibration.absolute())}
    key = digest_json([stage, params, source.digest, source_digest(base.get(stage).module)])
    known = workdir / f"{stage}-{key[7:23]}.json"
    if known.exists():
        digest, seconds = json.loads(known.read_text())
        if (kept := store.artifact(digest)) is not None:
            return kept, seconds
    began = time.process_time()
    made, _ = run_stage(store, stage, {"model": source}, params)
    seconds = time.process_time() - began
    known.write_text(json.dumps([made.digest, seconds]))
    return made, seconds


def _losses(logits: Any, ids: Any) -> Any:
    """Nats of each window [rows], of logits [rows, length, vocabulary]."""
    logits = logits[:, :-1].astype(np.float64)
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    return (total - np.take_along_axis(logits, ids[:, 1:, None], -1)[..., 0]).sum(-1)


def _static_inputs(directory: Path) -> tuple[int, int]:
    record = directory / "quantization.json"
    if not record.exists():
        return 0, 0
    kinds = [each["activation"] for each in json.loads(record.read_text())["weights"].values()]
    return kinds.count("static"), len(kinds) - kinds.count("none")


def _take_turns(made: dict[str, Made], repeats: int) -> None:
    ids = np.random.default_rng(0).integers(4, 4000, (1, WINDOW))
    for turn in range(repeats + 1):
        for each in made.values():
            began = time.process_time()
            each.session.logits(ids)
            if turn:
                each.milliseconds.append(1000 * (time.process_time() - began))


def _line(name: str, made: Made, plain: Made) -> str:
    difference, error = made.row.above(plain.row)
    best = min(made.milliseconds)
    kept = f"{made.inputs[0]}/{made.inputs[1]}" if made.inputs[1] else ""
    return (
        f"{name:<26}{made.row.perplexity:11.4f}{100 * math.expm1(difference):+9.3f}{100 * error:7.3f}"
        f"{kept:>9}{best:8.2f}{min(plain.milliseconds) / best:7.2f}{made.row.cpu_seconds:8.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
