"""Recovering what half of the feed-forward features took: distillation, its controls, and what it costs.

    python tests/bench/bench_distill.py --model DIR --training TEXT --heldout TEXT
        [--windows 96] [--workdir DIR] [--only short]

`prune.structured` takes half of the features of every feed-forward by activation, with and without a refit of
what takes them up, as an optimal brain surgeon does, and with those that stay trained; of that, `distill`
learns from the model before. "recovered" is the share of the lost log-perplexity, of that without and with
refit. Controls: the same tokens by cross-entropy, the small shape trained from random weights on them, and
the dense model given the same steps. Training windows come from one text; the held-out text is cut in two,
the first half chooses, the second measures. One thread, float32, windows of 256 tokens; CPU seconds are of
pruning and training together, imports left out. Last: what gradient checkpointing saves of the memory that
activations take, and its time, and how far gradients of an accumulated batch are from those of the whole.
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

from machine import described, working_directory
from quantize_rows import THREADS, Row, measure, row

if TYPE_CHECKING:
    from collections.abc import Mapping

    Chain = list[tuple[str, dict[str, object]]]

BARS = {"short": (0.75, 90), "long": (0.9, 300)}


def main() -> int:
    """Prints the tables; 1 when a bar is not met."""
    options = _options()
    with described(), working_directory(options.workdir) as workdir:
        parts = halves(options.heldout, workdir)
        dense = Row(*measure(options.model, parts[1], options.windows))
        print(f"{dense.predicted} predicted tokens in {len(dense.nll)} windows\n")
        print(f"{'':<40}{'perplexity':>11}{'delta %':>9}{'se':>6}{'recovered %':>13}{'CPU s':>8}")
        print(f"{'dense':<40}{dense.perplexity:11.3f}")
        rows: dict[str, Row] = {}
        for name, chain in _chains(options, parts[0], workdir).items():
            model = options.model
            if name == "from random weights":
                model, chain = _random(options, chain, workdir), chain[1:]
            *before, (stage, params) = chain
            rows[name] = row(model, parts[1], options.windows, stage, params, workdir, before)
            _print(name, rows[name], dense, rows)
        met = [_bar(*bar) for bar in _bars(rows, dense)]
        met += [_bar(*bar) for bar in _costs(options, workdir)]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "training", "heldout"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=96, help="of the half that measures")
    parser.add_argument("--workdir", type=Path, help="keeps rows and store; temporary by default")
    parser.add_argument("--only", choices=tuple(BARS), help="leave the other length out")
    return parser.parse_args()


def halves(text: Path, workdir: Path) -> tuple[Path, Path]:
    """A text in two: what chooses, and what measures."""
    whole = text.read_text("utf-8")
    paths = (workdir / "selection.txt", workdir / "evaluation.txt")
    middle = whole.index("\n", len(whole) // 2)
    for path, part in zip(paths, (whole[:middle], whole[middle:]), strict=True):
        path.write_text(part, "utf-8")
    return paths


def _training(options: argparse.Namespace, selection: Path, length: str) -> dict[str, object]:
    texts = {"training_text": str(options.training.absolute()), "selection_text": str(selection)}
    fixed = {**texts, "precision": "fp32", "selection_windows": 8}
    return {**fixed, **LENGTHS[length]}


LENGTHS: Mapping[str, Mapping[str, object]] = {
    "short": {"steps": 5, "evaluate_every": 5, "learning_rate": 1e-4},
    "long": {"steps": 80, "evaluate_every": 40},
}
# What is cut and trained layer by layer before: windows of calibration, and how often they are gone through.
CUTS: Mapping[str, Mapping[str, object]] = {
    "short": {"samples": 224, "feature_epochs": 1},
    "long": {"samples": 256, "feature_epochs": 2},
}
PRUNED, REFIT, OBS, TRAINED, CE, SCRATCH, CONTROL = (
    "half of the features", "the same, refitted", "chosen by obs, refitted", "and trained by layers, {}",
    "cross-entropy, the same tokens", "from random weights", "dense, the same steps",
)  # fmt: skip


def _chains(options: argparse.Namespace, selection: Path, workdir: Path) -> dict[str, Chain]:
    """What is run, by row: stages with their parameters."""
    sampled = {"calibration": str(options.training.absolute()), "samples": 64, "compute_dtype": "float32"}
    fitted = {"ffn": 0.5, **sampled, "feature_epochs": 0}
    cuts = {
        length: ("prune.structured", {"ffn": 0.5, "scoring": "obs", **sampled, **CUTS[length]})
        for length in ((options.only,) if options.only else BARS)
    }
    found: dict[str, Chain] = {
        PRUNED: [("prune.structured", {"ffn": 0.5, **sampled, "refit": False})],
        REFIT: [("prune.structured", fitted)],
        OBS: [("prune.structured", {**fitted, "scoring": "obs"})],
    }
    for length, cut in cuts.items():
        found[TRAINED.format(length)] = [cut]
        training = _training(options, selection, length)
        found[f"distilled, {length}"] = [cut, ("distill", {"teacher": "teacher", "hidden": 0.0, **training})]
    length, cut = next(iter(cuts.items()))
    training = {**_training(options, selection, length), "learning_rate": 1e-4}
    found[CE] = [cut, ("finetune.full", training)]
    found[SCRATCH] = [cut, ("finetune.full", {**training, "learning_rate": 2e-3})]
    found[CONTROL] = [("finetune.full", training)]
    return found


def _random(options: argparse.Namespace, chain: Chain, workdir: Path) -> Path:
    """The pruned model's shape with weights as its config draws them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = workdir / "random"
    if not directory.exists():
        config = AutoConfig.from_pretrained(options.model)
        config.intermediate_size //= 2
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(directory)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(options.model / name, directory / name)
    return directory


def _recovered(made: Row, start: Row, dense: Row) -> float:
    """The share of what ``start`` lost that ``made`` has back."""
    lost = start.above(dense)[0]
    return (lost - made.above(dense)[0]) / lost


def _print(label: str, made: Row, dense: Row, rows: Mapping[str, Row]) -> None:
    difference, error = made.above(dense)
    cells = f"{made.perplexity:11.3f}{math.expm1(difference) * 100:+9.2f}{error * 100:6.2f}"
    shares = [
        f"{100 * _recovered(made, rows[start], dense):.0f}" if start in rows else "-"
        for start in (PRUNED, REFIT)
    ]
    print(f"{label:<40}{cells}{' / '.join(shares):>13}{made.cpu_seconds:8.1f}", flush=True)


def _bars(rows: Mapping[str, Row], dense: Row) -> list[tuple[str, bool]]:
    found = []
    for length, (share, seconds) in BARS.items():
        if (made := rows.get(f"distilled, {length}")) is not None:
            got = _recovered(made, rows[PRUNED], dense)
            found += [
                (f"{length}: {got:.1%} recovered of what pruning took, at least {share:.0%}", got >= share),
                (f"{length}: {made.cpu_seconds:.0f} CPU s, at most {seconds}", made.cpu_seconds <= seconds),
            ]
    first = next(made for name, made in rows.items() if name.startswith("distilled"))
    for name in (CE, SCRATCH):
        ahead, error = rows[name].above(first)
        found.append((f"{name}: {ahead:+.4f} nats above distilled (se {error:.4f})", ahead > 2 * error))
    control, error = rows[CONTROL].above(dense)
    found.append(
        (f"control: {control:+.4f} nats above dense (se {error:.4f}), never worse", control <= 2 * error)
    )
    return found


def _bar(what: str, is_met: bool) -> bool:
    print(f"{'met ' if is_met else 'MISS'} {what}")
    return is_met


def _costs(options: argparse.Namespace, workdir: Path) -> list[tuple[str, bool]]:
    """Gradient checkpointing and accumulation, each in processes of their own."""
    import torch

    found = {kind: _step(options, kind, workdir) for kind in ("plain", "checkpointed", "accumulated")}
    # On the way back, a block that is computed again holds its part of what all of them would.
    block = found["plain"]["held_bytes"] / found["plain"]["layers"]
    saved = 1 - (found["checkpointed"]["held_bytes"] + block) / found["plain"]["held_bytes"]
    slower = found["checkpointed"]["cpu_seconds"] / found["plain"]["cpu_seconds"]
    whole, parts = (torch.load(workdir / f"{kind}.pt") for kind in ("plain", "accumulated"))
    worst = max(float((value - parts[name]).norm() / value.norm()) for name, value in whole.items())
    return [
        (f"checkpointing saves {saved:.0%} of what activations hold, at least 30 %", saved >= 0.3),
        (f"checkpointing takes {slower:.2f} x the time, at most 1.4 x", slower <= 1.4),
        (f"accumulated gradients differ by {worst:.1e} of their norms, at most 1e-5", worst <= 1e-5),
    ]


def _step(options: argparse.Namespace, kind: str, workdir: Path) -> dict[str, float]:
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    script = str(Path(__file__).with_name("train_step.py"))
    command = [sys.executable, script, str(options.model), str(options.training), kind]
    done = subprocess.run(
        [*command, str(workdir / f"{kind}.pt")], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"train_step.py failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
