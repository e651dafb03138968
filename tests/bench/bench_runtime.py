"""The delivered artifact against fp32 PyTorch eager, in one process and in turns: prefill, decode and size.

    python tests/bench/bench_runtime.py [--workdir DIR] [--threads N ...] [--repeats N]

Builds the 60M-parameter Llama (make_llama.py) for cpu-fp32, cpu-int8 and cpu-int4, then times a prefill of
128 tokens, with logits for all of them, and the steps of single tokens after it, of each artifact through
onnxruntime and of transformers' model (its default attention, which is torch's fused one). Sides take turns.
Disturbance only ever adds time, so each side counts with its best turn; the median of the paired ratios,
which on a busy machine tells more of the others, stands beside it.
Bars: int8 prefill at least 2 x as fast as eager's, int8 at most 0.3 x the bytes of the fp32 weights, int4 at
most 0.2 x.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from bench_build import MODEL, build
from machine import described, working_directory
from make_llama import make

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]

PREFILL, DECODE = 128, 16
PAUSE_SECONDS = 0.02  # lets the idle threads of the side before fall asleep
EAGER = "torch eager fp32"
PREFILL_BAR = {"cpu-int8": 2.0}
SIZE_BAR = {"cpu-int8": 0.3, "cpu-int4": 0.2}
TARGETS = ("cpu-fp32", "cpu-int8", "cpu-int4")


@dataclass(frozen=True)
class Side:
    """One way to run the model. step: ids [1, n] and what the last step gave (None: nothing) → the same."""

    step: Callable[[Ids, Any], Any]
    size_bytes: int
    prefill_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)

    def take_turn(self, ids: Ids) -> None:
        """Times one prefill and the tokens after it."""
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        past = self.step(ids, None)
        filled = time.perf_counter()
        for _ in range(DECODE):
            past = self.step(ids[:, :1], past)
        self.prefill_ms.append((filled - started) * 1e3)
        self.decode_ms.append((time.perf_counter() - filled) * 1e3 / DECODE)


def main() -> int:
    """Prints a table for each number of threads; 1 when a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="keeps model and store; temporary by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with described(), working_directory(options.workdir) as workdir:
        weight_bytes = make(workdir / MODEL) * 4
        met = [_compare(workdir, weight_bytes, threads, options.repeats) for threads in options.threads]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _compare(workdir: Path, weight_bytes: int, threads: int, repeats: int) -> bool:
    sides = {EAGER: _eager(workdir / MODEL, weight_bytes, threads)}
    sides |= {target: _artifact(workdir, target, threads) for target in TARGETS}
    ids = np.random.default_rng(0).integers(4, 4000, (1, PREFILL))
    for _ in range(repeats):
        for side in sides.values():
            side.take_turn(ids)
    heads = "".join(f"{name:>12}{'x':>7}{'median x':>10}" for name in ("prefill ms", "decode ms"))
    print(f"{f'threads: {threads}':<18}{heads}{'MB':>8}{'of fp32':>9}")
    met = True
    for name, side in sides.items():
        prefill, size = min(sides[EAGER].prefill_ms) / min(side.prefill_ms), side.size_bytes / weight_bytes
        met &= prefill >= PREFILL_BAR.get(name, 0.0) and size <= SIZE_BAR.get(name, math.inf)
        cells = _cells(sides[EAGER].prefill_ms, side.prefill_ms) + _cells(
            sides[EAGER].decode_ms, side.decode_ms
        )
        print(f"{name:<18}{cells}{side.size_bytes / 1e6:8.1f}{size:9.3f}")
    print(flush=True)
    return met


def _cells(base: Sequence[float], own: Sequence[float]) -> str:
    """The best turn in ms, base's best by it, and the median of base's time by ours in the same turn."""
    paired = statistics.median(a / b for a, b in zip(base, own, strict=True))
    return f"{min(own):12.2f}{min(base) / min(own):7.2f}{paired:10.2f}"


def _eager(directory: Path, weight_bytes: int, threads: int) -> Side:
    import torch

    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def step(ids: Ids, past: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(ids), past_key_values=past, use_cache=True).past_key_values

    return Side(step, weight_bytes)


def _artifact(workdir: Path, target: str, threads: int) -> Side:
    from ingot.targets.runtimes import onnx

    results = build(workdir, target)
    artifact = next(result.artifact for name, result in results.items() if name.startswith("export@"))
    assert artifact is not None
    session = onnx.open(artifact.path, threads=threads)

    def step(ids: Ids, past: Any) -> Any:
        return session.step(ids, past=past)[1]

    size = sum(file.size for file in artifact.record.files if file.path.startswith(onnx.MODEL_FILE))
    return Side(step, size)


if __name__ == "__main__":
    sys.exit(main())
