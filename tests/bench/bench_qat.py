"""Training under rounding: what of GPTQ's loss at 3 bits it gets back; gradual pruning beside one-shot.

    python tests/bench/bench_qat.py --model DIR --training TEXT --heldout TEXT
        [--windows 96] [--samples 64] [--steps 400] [--workdir DIR] [--only qat | gradual]

`quantize.qat` starts from the codes of `quantize.gptq` (3 bits, groups of 128) and learns from the model
before. "net" takes off what the dense model gains by the same steps on the same text, by cross-entropy: what
training alone gives. `prune.gradual` (2:4) is set against `prune.magnitude` and `distill` with as many steps.
Training windows come from one text; the held-out text is cut in two, the first half chooses, the second
measures. One thread, float32, windows of 256 tokens; CPU seconds are of all stages of a row together.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench_distill import halves
from machine import described, working_directory
from quantize_rows import Row, measure, row

if TYPE_CHECKING:
    from collections.abc import Mapping

    Chain = list[tuple[str, dict[str, object]]]

GPTQ, QAT, CONTROL = "gptq, 3 bits", "the same, trained against dense", "dense, the same steps"
ONCE, RECOVERED, GRADUAL = "magnitude 2:4", "the same, distilled", "gradual 2:4, as many steps"
LEAST_RECOVERED = 0.5


def main() -> int:
    """Prints the table; 1 when a bar is not met."""
    options = _options()
    with described(), working_directory(options.workdir) as workdir:
        selection, evaluation = halves(options.heldout, workdir)
        dense = Row(*measure(options.model, evaluation, options.windows))
        print(f"{dense.predicted} predicted tokens in {len(dense.nll)} windows\n")
        print(f"{'':<40}{'perplexity':>11}{'delta %':>9}{'se':>6}{'CPU s':>8}")
        print(f"{'dense':<40}{dense.perplexity:11.3f}")
        rows: dict[str, Row] = {}
        for name, chain in _chains(options, selection).items():
            *before, (stage, params) = chain
            rows[name] = row(options.model, evaluation, options.windows, stage, params, workdir, before)
            difference, error = rows[name].above(dense)
            cells = f"{rows[name].perplexity:11.3f}{math.expm1(difference) * 100:+9.2f}{error * 100:6.2f}"
            print(f"{name:<40}{cells}{rows[name].cpu_seconds:8.1f}", flush=True)
        met = [_bar(*bar) for bar in _bars(rows, dense)]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "training", "heldout"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=96, help="of the half that measures")
    parser.add_argument("--samples", type=int, default=64, help="calibration windows")
    parser.add_argument("--steps", type=int, default=400, help="of every training")
    parser.add_argument("--workdir", type=Path, help="keeps rows and store; temporary by default")
    parser.add_argument("--only", choices=("qat", "gradual"), help="leave the other half out")
    return parser.parse_args()


def _chains(options: argparse.Namespace, selection: Path) -> dict[str, Chain]:
    """What is run, by row: stages with their parameters."""
    text = str(options.training.absolute())
    learn = {
        "training_text": text, "selection_text": str(selection), "precision": "fp32", "batch_size": 4,
        "selection_windows": 32, "steps": options.steps, "evaluate_every": max(1, options.steps // 4),
    }  # fmt: skip
    gptq: dict[str, object] = {
        "calibration": text, "samples": options.samples, "compute_dtype": "float32", "bits": 3,
        "group_size": 128,
    }  # fmt: skip
    taught = {**learn, "teacher": "teacher1"}
    found: dict[str, Chain] = {}
    if options.only != "gradual":
        found[GPTQ] = [("quantize.gptq", gptq)]
        found[QAT] = [*found[GPTQ], ("quantize.qat", {**taught})]
        found[CONTROL] = [("finetune.full", dict(learn))]
    if options.only != "qat":
        found[ONCE] = [("prune.magnitude", {"pattern": "2:4"})]
        found[RECOVERED] = [*found[ONCE], ("distill", {**learn, "teacher": "teacher"})]
        found[GRADUAL] = [("prune.gradual", {**taught, "pattern": "2:4", "learning_rate": 4e-4})]
    return found


def _bars(rows: Mapping[str, Row], dense: Row) -> list[tuple[str, bool]]:
    found = []
    if GPTQ in rows:
        lost, left = rows[GPTQ].above(dense)[0], rows[QAT].above(dense)[0]
        gained = max(0.0, -rows[CONTROL].above(dense)[0])
        got, net = (lost - left) / lost, (lost - left - gained) / lost
        what = f"{got:.1%} of what gptq loses is back, net of training alone {net:.1%}"
        found.append((f"{what}, at least {LEAST_RECOVERED:.0%}", net >= LEAST_RECOVERED))
        found.append(_ahead(rows[GPTQ], rows[QAT], "gptq", "trained"))
    if GRADUAL in rows:
        found += [
            _ahead(rows[ONCE], rows[GRADUAL], "magnitude", "gradual"),
            _ahead(rows[RECOVERED], rows[GRADUAL], "distilled", "gradual"),
        ]
    return found


def _ahead(other: Row, made: Row, named: str, what: str) -> tuple[str, bool]:
    """Whether a row is no worse than another, beyond two standard errors."""
    above, error = made.above(other)
    return f"{what}: {above:+.4f} nats from {named} (se {error:.4f}), never worse", above <= 2 * error


def _bar(what: str, is_met: bool) -> bool:
    print(f"{'met ' if is_met else 'MISS'} {what}")
    return is_met


if __name__ == "__main__":
    sys.exit(main())
