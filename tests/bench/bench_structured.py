"""Structured pruning: what scores and fitting are worth, which layer goes, and what a smaller shape saves.

    python tests/bench/bench_structured.py --model DIR --calibration TEXT --evaluation TEXT
        [--windows 128] [--samples 128] [--repeats 15] [--workdir DIR] [--only quality|speed]

Quality, of one model: half of the features of every feed-forward go, chosen by what they add on a text, by
gradients, by their weights, and by chance, cut alone and with what stays fitted anew; then half of the heads;
then one layer, each in turn beside the one of the least block influence. One evaluator measures all: torch in
float32, windows of 256 tokens; "delta" is over the dense model with the paired standard error over windows.
Everything runs on one thread in float32, and seconds are of the processor.

Speed, of the 60M-parameter Llama (make_llama.py): the dense model and one with half of its features, exported
to ONNX in float32, take turns at a prefill of 128 tokens on one thread. A side counts with its best turn, in
CPU seconds. The saving of time is put over that of floating-point operations, which follow from the shapes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ingot.artifacts.store import Store
from ingot.stages.model.checkpoint import Checkpoint
from ingot.targets.runtimes import onnx
from machine import described, working_directory
from make_llama import make
from quantize_rows import WINDOW, Row, measure, row, run_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFILL = 128
SCORINGS = ("activation", "taylor", "weight", "random")
COMPARED = (("ffn", False), ("ffn", True), ("heads", True))
LEAST_ERRORS = 3.0
LEAST_SAVED = 0.7


def main() -> int:
    """Prints the tables; 1 when a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=128, help="of the evaluation text")
    parser.add_argument("--samples", type=int, default=128, help="windows of the calibration text")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each side")
    parser.add_argument("--only", choices=("quality", "speed"))
    parser.add_argument("--workdir", type=Path, help="keeps rows and models; temporary by default")
    options = parser.parse_args()
    met = True
    with described(), working_directory(options.workdir) as workdir:
        if options.only != "speed":
            met &= _quality(options, workdir)
        if options.only != "quality":
            met &= _speed(options, workdir)
    print(f"bars {'met' if met else 'NOT MET'}")
    return int(not met)


def _quality(options: argparse.Namespace, workdir: Path) -> bool:
    dense = Row(*measure(options.model, options.evaluation, options.windows))
    print(f"{dense.predicted} predicted tokens in {len(dense.nll)} windows\n")
    print(f"{'':<34}{'perplexity':>12}{'delta %':>10}{'se':>7}{'CPU s':>9}")
    print(f"{'dense':<34}{dense.perplexity:12.3f}")
    rows: dict[tuple[str, str, bool], Row] = {}
    for kind, refit in COMPARED:
        for scoring in SCORINGS:
            params = {kind: 0.5, "scoring": scoring, "refit": refit}
            made = _row(options, workdir, "prune.structured", params)
            rows[kind, scoring, refit] = made
            _print(f"{kind} -50 %, {scoring}{', fitted' if refit else ''}", made, dense)
    chosen = _row(options, workdir, "prune.layers", {"count": 1})
    _print("one layer, by influence", chosen, dense)
    layers = len(Checkpoint.open(options.model).architecture.layers)
    each = [
        _row(options, workdir, "prune.layers", {"indices": [layer], "calibration": None})
        for layer in range(layers)
    ]
    for layer, made in enumerate(each):
        _print(f"layer {layer}", made, dense)
    print()
    met = []
    for kind, refit in COMPARED:
        ours, chance = rows[kind, "activation", refit], rows[kind, "random", refit]
        difference, error = ours.above(chance)
        how = ", fitted" if refit else ""
        met.append(_bar(f"{kind}{how}: errors below chance", -difference / error, LEAST_ERRORS))
    fitted, cut = rows["ffn", "activation", True], rows["ffn", "activation", False]
    difference, error = fitted.above(cut)
    met.append(_bar("ffn: fitted, errors below cut alone", -difference / error, LEAST_ERRORS))
    others = np.mean([made.nll for made in each if not np.array_equal(made.nll, chosen.nll)], axis=0)
    difference, error = chosen.above(Row(others, chosen.predicted))
    met.append(_bar("layer: errors below the mean of the others", -difference / error, LEAST_ERRORS))
    return all(met)


def _row(options: argparse.Namespace, workdir: Path, stage: str, params: Mapping[str, object]) -> Row:
    text = {
        "calibration": str(options.calibration.absolute()), "samples": options.samples, "window": WINDOW,
        "compute_dtype": "float32",
    }  # fmt: skip
    given = {name: value for name, value in {**text, **params}.items() if value is not None}
    return row(options.model, options.evaluation, options.windows, stage, given, workdir)


def _print(label: str, made: Row, dense: Row) -> None:
    difference, error = made.above(dense)
    cells = f"{made.perplexity:12.3f}{math.expm1(difference) * 100:+10.2f}{error * 100:7.2f}"
    print(f"{label:<34}{cells}{made.cpu_seconds:9.1f}", flush=True)


def _speed(options: argparse.Namespace, workdir: Path) -> bool:
    source = workdir / "llama-60m"
    make(source)
    store = Store.open(workdir / "store")
    loaded, _ = run_stage(store, "load", {}, {"model": str(source)})
    halved, _ = run_stage(store, "prune.structured", {"model": loaded}, {"ffn": 0.5, "scoring": "weight"})
    sides = {"dense": loaded, "ffn -50 %": halved}
    sessions = {}
    for name, checkpoint in sides.items():
        exported, _ = run_stage(store, "export.onnx", {"model": checkpoint}, {})
        sessions[name] = onnx.open(exported.path, threads=1)
    ids = np.random.default_rng(0).integers(4, 4000, (1, PREFILL))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, session in sessions.items():
            started = time.process_time()
            session.step(ids, past=None)
            seconds[name].append(time.process_time() - started)
    flops = {name: _flops(Checkpoint.open(each.path)) for name, each in sides.items()}
    print(f"\n{f'prefill of {PREFILL} tokens':<34}{'CPU ms':>12}{'GFLOP':>10}")
    for name in sides:
        print(f"{name:<34}{min(seconds[name]) * 1e3:12.2f}{flops[name] / 1e9:10.2f}")
    dense, small = sides
    saved = 1 - min(seconds[small]) / min(seconds[dense])
    expected = 1 - flops[small] / flops[dense]
    print(f"\nsaves {saved:.1%} of the time, {expected:.1%} of the operations")
    return _bar("share of the saved operations that is saved time", saved / expected, LEAST_SAVED)


def _flops(checkpoint: Checkpoint) -> float:
    """Two a weight of the linear maps and token, and those of scores and of mixing values."""
    model: Any = checkpoint.architecture
    weights = sum(linear.out_features * linear.in_features for linear in model.linears)
    mixed = 2 * len(model.layers) * PREFILL * model.heads * model.head_dim
    return 2.0 * PREFILL * (weights + mixed)


def _bar(label: str, value: float, least: float) -> bool:
    print(f"{label}: {value:.2f}, at least {least:.2f}{'' if value >= least else ': NOT MET'}", flush=True)
    return value >= least


if __name__ == "__main__":
    sys.exit(main())
