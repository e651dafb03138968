"""Factored weights by perplexity, plain against activation-aware; and the bytes of shared layers on disk.

    python tests/bench/bench_factor.py --model DIR --calibration TEXT --evaluation TEXT
        [--windows 128] [--samples 128] [--workdir DIR]

Every linear weight of the layers keeps four fifths of its bytes, or all of them do together (budget); output
head and embedding stay. Everything runs on one thread in float32, and one evaluator measures all: torch in
float32, windows of 256 tokens. "delta" is over the dense model, with the paired standard error over windows.
Then two layers share their weights, and the files of both checkpoints and of their ONNX graphs are weighed,
in floating point and with 4 bits. With --workdir, rows are kept and only what changed is run again.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.artifacts.store import Store
from ingot.stages.model.checkpoint import WEIGHTS_FILE, Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from machine import described, working_directory
from quantize_rows import WINDOW, Row, measure, row, run_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingot.artifacts.manifest import Artifact

KEPT = 0.8
# Of what plain singular values lose, activation-aware ones may lose so much.
MOST_OF_PLAIN = 0.3
# What may stand in a file beside the weights that are saved: names, and nodes of a graph.
BESIDE_BYTES = 20_000
LAYERS = (1, 2)


def main() -> int:
    """Prints both tables; 1 when a bar is not met."""
    options = _options()
    with described(), working_directory(options.workdir) as workdir:
        dense = Row(*measure(options.model, options.evaluation, options.windows))
        print(f"{dense.predicted} predicted tokens in {len(dense.nll)} windows\n")
        print(f"{'':<40}{'perplexity':>12}{'delta %':>10}{'se':>7}{'CPU s':>9}")
        print(f"{'dense':<40}{dense.perplexity:12.3f}")
        rows = {}
        for label, (stage, params) in _rows(options).items():
            made = row(options.model, options.evaluation, options.windows, stage, params, workdir)
            rows[label] = made
            difference, error = made.above(dense)
            cells = f"{math.expm1(difference) * 100:+10.2f}{error * 100:7.2f}{made.cpu_seconds:9.1f}"
            print(f"{label:<40}{made.perplexity:12.3f}{cells}", flush=True)
        lost = {label: made.perplexity / dense.perplexity - 1 for label, made in rows.items()}
        met = [_at_most("svd_llm: loss over that of svd", lost["svd_llm"] / lost["svd"], MOST_OF_PLAIN)]
        print()
        met += _shared(options, workdir)
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=128, help="of the evaluation text")
    parser.add_argument("--samples", type=int, default=128, help="windows of the calibration text")
    parser.add_argument("--workdir", type=Path, help="keeps rows and store; temporary by default")
    return parser.parse_args()


def _rows(options: argparse.Namespace) -> dict[str, tuple[str, Mapping[str, object]]]:
    walked = {
        "calibration": str(options.calibration.absolute()), "samples": options.samples, "window": WINDOW,
        "compute_dtype": "float32",
    }  # fmt: skip
    plain = {**walked, "error_correction": False}
    return {
        "svd": ("factor.svd", {"ratio": KEPT}),
        "svd, budget": ("factor.svd", {"budget": KEPT}),
        "svd_llm without error_correction": ("factor.svd_llm", {"ratio": KEPT, **plain}),
        "svd_llm": ("factor.svd_llm", {"ratio": KEPT, **walked}),
        "svd_llm, budget": ("factor.svd_llm", {"budget": KEPT, **walked}),
    }


def _shared(options: argparse.Namespace, workdir: Path) -> list[bool]:
    """Weighs the files of a network and of the same with two layers that share, whole and in 4 bits."""
    store = Store.open(workdir / "store")
    loaded, _ = run_stage(store, "load", {}, {"model": str(options.model)})
    shared, _ = run_stage(store, "share.layers", {"model": loaded}, {"groups": [list(LAYERS)]})
    rounding = {"bits": 4, "group_size": 128}
    small = [run_stage(store, "quantize.rtn", {"model": each}, rounding)[0] for each in (loaded, shared)]
    layer = f".{LAYERS[1]}."
    tensors = Checkpoint.open(loaded.path).tensors
    infos = [tensors.info(name) for name in tensors.names() if layer in name]
    specs = QuantizedCheckpoint.open(small[0].path).quantized
    packed = sum(spec.payload_bits // 8 for name, spec in specs.items() if layer in name)
    graphs = [run_stage(store, "export.onnx", {"model": each}, {})[0] for each in (loaded, shared, *small)]
    print(f"{'bytes of two layers that share':<40}{'own':>12}{'shared':>12}{'saved':>12}{'one layer':>12}")
    return [
        _weighed("safetensors", loaded, shared, WEIGHTS_FILE, sum(info.nbytes for info in infos)),
        _weighed("ONNX, float32", graphs[0], graphs[1], "model.onnx", sum(4 * info.count for info in infos)),
        _weighed("ONNX, 4 bits", graphs[2], graphs[3], "model.onnx", packed),
    ]


def _weighed(label: str, own: Artifact, shared: Artifact, name: str, layer: int) -> bool:
    sizes = [(each.path / name).stat().st_size for each in (own, shared)]
    saved = sizes[0] - sizes[1]
    is_met = abs(saved - layer) <= BESIDE_BYTES
    verdict = "" if is_met else "  NOT MET"
    print(f"{label:<40}{sizes[0]:>12,}{sizes[1]:>12,}{saved:>12,}{layer:>12,}{verdict}")
    return is_met


def _at_most(label: str, value: float, most: float) -> bool:
    print(f"{label}: {value:.3f}, at most {most:.3f}{'' if value <= most else ': NOT MET'}")
    return value <= most


if __name__ == "__main__":
    sys.exit(main())
