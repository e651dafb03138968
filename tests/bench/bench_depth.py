"""Memory of a calibrated stage by depth: it holds a block at a time, so it must not grow with layers.

    python tests/bench/bench_depth.py [--stage quantize.gptq] [--layers 6 12 24] [--samples 32]
    python tests/bench/bench_depth.py --stage prune.structured --params '{"ffn": 0.5, "heads": 0.5}'

Llamas of 512 features with random float32 weights, on one thread. The bar: what the process holds beyond a
calibrated model of one layer is at most 2 × one block, the budget for activations and the output's buffers,
and from the first depth to the last it grows by at most 5 %. Pages of the mapped checkpoint, which the system
can take back, are part of the resident set and are counted too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from ingot.pipeline.data import BUNDLED
from machine import described, spend, working_directory
from make_llama import make
from quantize_rows import THREADS, run

HIDDEN, INNER, KV, VOCABULARY = 512, 1536, 256, 4096
BLOCK_BYTES = 4 * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * INNER)
BUDGET_MB = 64
OUTPUT_BUFFERS = 16 << 20
MOST_GROWTH = 0.05


def main() -> int:
    """Prints a line a depth; 1 when memory grows with depth or exceeds the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="quantize.gptq")
    parser.add_argument("--params", default="{}", help="of the stage, beside the text's, as JSON")
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--samples", type=int, default=32, help="windows of 256 tokens")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options)
        return 0
    with described(), working_directory(options.workdir) as workdir:
        print(f"one block {BLOCK_BYTES / 1e6:.1f} MB, budget for activations {BUDGET_MB} MB\n")
        print(f"{'layers':>8}{'checkpoint MB':>16}{'peak MB':>10}{'CPU s':>8}")
        peaks = {layers: _measure(workdir, layers, options) for layers in (1, *options.layers)}
        least, first, last = peaks[1], peaks[options.layers[0]], peaks[options.layers[-1]]
        allowed = 2 * BLOCK_BYTES + BUDGET_MB * 1_000_000 + OUTPUT_BUFFERS
        growth, beyond = last / first - 1, last - least
        depths = f"from {options.layers[0]} to {options.layers[-1]} layers"
        print(f"\n{depths}: {growth:+.1%} (bar +{MOST_GROWTH:.0%})")
        print(f"beyond one layer: {beyond / 1e6:.1f} MB (bar {allowed / 1e6:.1f} MB)")
    is_met = growth <= MOST_GROWTH and beyond <= allowed
    print(f"bars {'met' if is_met else 'NOT MET'}")
    return int(not is_met)


def _measure(workdir: Path, layers: int, options: argparse.Namespace) -> int:
    """Peak resident bytes of the stage in a process of its own."""
    model = workdir / f"llama-{layers}"
    make(model, num_hidden_layers=layers, vocab_size=VOCABULARY)
    with tempfile.TemporaryDirectory(dir=workdir) as store:
        command = [sys.executable, __file__, "--child", str(model), "--stage", options.stage]
        command += ["--params", options.params, "--samples", str(options.samples), "--workdir", store]
        usage = spend(command, {**os.environ, **dict.fromkeys(THREADS, "1")})
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    peak, seconds = usage.max_rss_bytes, usage.cpu_seconds
    print(f"{layers:>8}{size / 1e6:>16.1f}{peak / 1e6:>10.1f}{seconds:>8.1f}", flush=True)
    return peak


def _child(options: argparse.Namespace) -> None:
    """Runs the stage, and nothing else that takes memory."""
    params = {
        "calibration": str(BUNDLED / "calibration.jsonl"), "samples": options.samples,
        "compute_dtype": "float32", "activation_budget_mb": BUDGET_MB, **json.loads(options.params),
    }  # fmt: skip
    run([(options.stage, params)], options.child, options.workdir)


if __name__ == "__main__":
    sys.exit(main())
