"""Pruning against llm-compressor and magnitude: perplexity at 50 %, with paired errors, and CPU seconds.

    python tests/bench/bench_prune.py --model DIR --calibration TEXT --evaluation TEXT
        [--llmcompressor PYTHON] [--windows 128] [--samples 128] [--workdir DIR]

Half of every linear weight of the layers becomes zero, freely or as 2:4; output head and embedding stay. Then
2:4 and 4 bits in groups of 128, in one sweep and one after the other. Everything runs on one thread in
float32, all see the same calibration windows, and one evaluator measures all: torch in float32, windows of
256 tokens. "delta" is over the dense model and "over peer" over the library's method of the same name, each
with the paired standard error over windows. With --workdir, rows are kept and only what changed is run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ingot.artifacts.digest import digest_json
from ingot.stages.model.calibration.samples import take
from ingot.stages.model.checkpoint import Checkpoint
from machine import described, working_directory
from quantize_rows import THREADS, WINDOW, Row, digest_file, measure, row

if TYPE_CHECKING:
    from collections.abc import Mapping

PATTERNS: Mapping[str, str | None] = {"50 %": None, "2:4": "2:4"}
METHODS = ("magnitude", "wanda", "sparsegpt")
PEERS = ("wanda", "sparsegpt")
WIDTHS = {"bits": 4, "group_size": 128, "lm_head_bits": 16, "embedding_bits": 16}
JOINT, AFTER = "sparsegpt + gptq, jointly", "sparsegpt, then gptq"


def main() -> int:
    """Prints the table; 1 when a bar is not met."""
    options = _options()
    rows: dict[tuple[str, str], Row] = {}
    with described(), working_directory(options.workdir) as workdir:
        dense = Row(*measure(options.model, options.evaluation, options.windows))
        print(f"{dense.predicted} predicted tokens in {len(dense.nll)} windows\n")
        print(f"{'':<34}{'perplexity':>12}{'delta %':>10}{'se':>7}{'over peer %':>13}{'se':>7}{'CPU s':>9}")
        print(f"{'dense':<34}{dense.perplexity:12.3f}")
        for label, pattern in PATTERNS.items():
            for method in PEERS if options.llmcompressor else ():
                rows[f"peer {method}", label] = _peer_row(method, pattern, options, workdir)
                _print(f"llmcompressor {method} {label}", rows[f"peer {method}", label], dense, None)
            for method in METHODS:
                made = _row(options, workdir, [_pruning(method, pattern, options)])
                rows[method, label] = made
                _print(f"{method} {label}", made, dense, rows.get((f"peer {method}", label)))
        for name, stages in _together(options).items():
            rows[name, "2:4"] = _row(options, workdir, stages)
            _print(f"{name}, 2:4 w4", rows[name, "2:4"], dense, None)
        met = [_bar(*bar) for bar in _bars(rows)]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=128, help="of the evaluation text")
    parser.add_argument("--samples", type=int, default=128, help="windows of the calibration text")
    parser.add_argument("--llmcompressor", metavar="PYTHON", default="", help="an interpreter that has it")
    parser.add_argument("--workdir", type=Path, help="keeps rows and store; temporary by default")
    return parser.parse_args()


def _calibrated(options: argparse.Namespace) -> dict[str, object]:
    return {
        "calibration": str(options.calibration.absolute()), "samples": options.samples, "window": WINDOW,
        "compute_dtype": "float32",
    }  # fmt: skip


def _pruning(method: str, pattern: str | None, options: argparse.Namespace) -> tuple[str, dict[str, object]]:
    params = {} if method == "magnitude" else _calibrated(options)
    return f"prune.{method}", {**params, "pattern": pattern}


def _together(options: argparse.Namespace) -> dict[str, list[tuple[str, dict[str, object]]]]:
    """2:4 and 4 bits: pruned and then rounded, and in one sweep."""
    rounded = {**_calibrated(options), **WIDTHS}
    return {
        AFTER: [_pruning("sparsegpt", "2:4", options), ("quantize.gptq", rounded)],
        JOINT: [("quantize.gptq", {**rounded, "pattern": "2:4"})],
    }


def _row(options: argparse.Namespace, workdir: Path, stages: list[tuple[str, dict[str, object]]]) -> Row:
    *before, (stage, params) = stages
    return row(options.model, options.evaluation, options.windows, stage, params, workdir, before)


def _peer_row(method: str, pattern: str | None, options: argparse.Namespace, workdir: Path) -> Row:
    """The library's row, made unless ``workdir`` has it."""
    texts = [digest_file(options.calibration), digest_file(options.evaluation)]
    known = [str(options.model), method, pattern, options.samples, options.windows, texts]
    path = workdir / "rows" / f"peer-{method}-{digest_json(known)[:16]}.json"
    if not path.exists():
        output = path.with_suffix(".checkpoint")
        output.mkdir(parents=True, exist_ok=True)
        model = Checkpoint.open(options.model).architecture
        samples = take(options.calibration, options.model, model, WINDOW, options.samples)
        job = path.with_suffix(".job")
        job.write_text(json.dumps({
            "model": str(options.model.absolute()), "method": method, "pattern": pattern, "dtype": "float32",
            "samples": [ids for batch in samples.batches for ids in batch.ids.tolist()],
            "output": str(output),
        }))  # fmt: skip
        environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "TQDM_DISABLE": "1"}
        driver = Path(__file__).with_name("prune_peer.py")
        with path.with_suffix(".log").open("wb") as log:
            done = subprocess.run(
                [options.llmcompressor, "-I", str(driver), str(job)], env=environment, stdout=log, stderr=log,
                check=False,
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"llm-compressor failed; see {path.with_suffix('.log')}")
        for sidecar in Checkpoint.open(options.model).sidecars():
            if not (output / sidecar.name).exists():
                shutil.copyfile(sidecar, output / sidecar.name)
        took = json.loads((output / "took.json").read_text("utf-8"))
        nll, predicted = measure(output, options.evaluation, options.windows)
        path.write_text(json.dumps({
            "nll": nll.tolist(), "predicted": predicted, "cpu_seconds": took["cpu_seconds"],
        }))  # fmt: skip
        shutil.rmtree(output)
    value = json.loads(path.read_text())
    return Row(**{**value, "nll": np.array(value["nll"])})


def _print(label: str, made: Row, dense: Row, peer: Row | None) -> None:
    cells = f"{made.perplexity:12.3f}{_percent(*made.above(dense))}"
    cells += _percent(*made.above(peer), width=13) if peer else " " * 20
    print(f"{label:<34}{cells}{made.cpu_seconds:9.1f}", flush=True)


def _percent(difference: float, error: float, width: int = 10) -> str:
    """A difference of log-perplexities as that of perplexities, in percent, and its standard error."""
    return f"{math.expm1(difference) * 100:+{width}.2f}{error * 100:7.2f}"


def _bars(rows: Mapping[tuple[str, str], Row]) -> list[tuple[str, float, float]]:
    """Label, value and the most that it may be."""
    bars = []
    for label in PATTERNS:
        made = rows["sparsegpt", label]
        for other in ("magnitude", "wanda") if label == "2:4" else ("magnitude",):
            difference, error = made.above(rows[other, label])
            bars.append((f"sparsegpt {label}: log-perplexity over {other}'s", difference, -2 * error))
        if peer := rows.get(("peer sparsegpt", label)):
            bars.append((f"sparsegpt {label}: log-perplexity over the library's", made.above(peer)[0], 0.0))
            bars.append((f"sparsegpt {label}: CPU seconds", made.cpu_seconds, 0.6 * peer.cpu_seconds))
        if peer := rows.get(("peer wanda", label)):
            above = rows["wanda", label].above(peer)[0]
            bars.append((f"wanda {label}: log-perplexity over the library's", above, 5e-4))
    joint, after = rows[JOINT, "2:4"], rows[AFTER, "2:4"]
    difference, error = joint.above(after)
    label = f"{JOINT}: log-perplexity over one after the other, two paired errors added"
    bars.append((label, difference + 2 * error, 0.0))
    return bars


def _bar(label: str, value: float, most: float) -> bool:
    print(f"{label}: {value:.4f}, at most {most:.4f}{'' if value <= most else ': NOT MET'}")
    return value <= most


if __name__ == "__main__":
    sys.exit(main())
