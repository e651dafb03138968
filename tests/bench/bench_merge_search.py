"""Merges whose coefficients were searched, beside their sources and the plain mean, on held-out text.

    python tests/bench/bench_merge_search.py --models BASE SIBLING --texts TEXT OTHER
        [--windows 64] [--trials 48] [--workdir DIR]

Each text is cut in two: the search sees the first half, the table is of the second. Perplexity is of windows
of 256 tokens, by torch in float32, and its error the paired standard error over windows of the mean of both
texts' log-perplexities, against the plain mean. Bar: the searched merge has a lower mean than either source
and than the plain mean.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from ingot.artifacts.store import Store
from machine import described, working_directory
from quantize_rows import measure, run_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingot.artifacts.manifest import Artifact

MEAN = "linear, 0.5 each"
# Name → stage, and what it takes beside the models.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    MEAN: ("merge.linear", {"weight": 0.5}),
    "slerp, t searched": ("merge.search", {"algorithm": "slerp", "ranges": {"t": [0.0, 1.0]}}),
    "linear, weights searched": ("merge.search", {"algorithm": "linear"}),
    "linear, weights at 4 depths": ("merge.search", {"algorithm": "linear", "knots": 4}),
    "task arithmetic, weight searched": (
        "merge.search", {"algorithm": "task_arithmetic", "ranges": {"weight": [0.0, 1.5]}},
    ),
    "ties, weight and density searched": (
        "merge.search",
        {
            "algorithm": "ties", "ranges": {"weight": [0.0, 1.5], "density": [0.1, 1.0]},
            "parameters": {"normalize": False},
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """nll: of every window of each text.  predicted: tokens of each.  seconds: of the processor."""

    nll: tuple[npt.NDArray[np.float64], ...]
    predicted: tuple[int, ...]
    seconds: float = 0.0

    @property
    def logs(self) -> list[float]:
        """The log-perplexity of each text."""
        return [float(nll.sum()) / count for nll, count in zip(self.nll, self.predicted, strict=True)]

    @property
    def mean(self) -> float:
        """The mean of the texts' log-perplexities."""
        return sum(self.logs) / len(self.logs)

    def error(self, other: Found) -> float:
        """The paired standard error of the difference of two means, windows taken as independent."""
        parts = [
            (mine - theirs).std(ddof=1) * len(mine) ** 0.5 / count
            for mine, theirs, count in zip(self.nll, other.nll, self.predicted, strict=True)
        ]
        return math.hypot(*parts) / len(parts)


def main() -> int:
    """Prints the table; 1 when the bar is not met."""
    options = _options()
    with described(), working_directory(options.workdir) as workdir:
        store = Store.open(workdir / "store")
        halves = [_halves(text, workdir) for text in options.texts]
        inputs = {
            f"model{number}": run_stage(store, "load", {}, {"model": str(model)})[0]
            for number, model in enumerate(options.models, start=1)
        }
        held_out = [half for _, half in halves]
        found = {
            f"{path.name} alone": _measured(inputs[name], held_out, options.windows)
            for name, path in zip(inputs, options.models, strict=True)
        }
        for name, (stage, params) in ROWS.items():
            started = time.process_time()
            given = {**params, **_models(str(params.get("algorithm", "linear")), inputs)}
            if stage == "merge.search":
                given |= {"selection": [str(half) for half, _ in halves], "trials": options.trials}
            merged, _ = run_stage(store, stage, inputs, given)
            seconds = time.process_time() - started
            found[name] = _measured(merged, held_out, options.windows, seconds)
        _print(found, [text.name for text in options.texts])
        best = min((name for name in found if "searched" in name), key=lambda name: found[name].mean)
        others = min(found[name].mean for name in found if "alone" in name or name == MEAN)
    met = found[best].mean < others
    print(f"{best}: {found[best].mean:.4f}, the best of the others {others:.4f}{'' if met else ': NOT MET'}")
    return int(not met)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, nargs=2, required=True, help="a base, and one tuned from it")
    parser.add_argument("--texts", type=Path, nargs=2, required=True, help="one that each model is good at")
    parser.add_argument("--windows", type=int, default=64, help="of each text that are measured")
    parser.add_argument("--trials", type=int, default=48, help="of each search")
    parser.add_argument("--workdir", type=Path, help="keeps texts and store; temporary by default")
    return parser.parse_args()


def _halves(text: Path, workdir: Path) -> tuple[Path, Path]:
    """The two halves of a text as files, cut at the end of a line."""
    whole = text.read_text(encoding="utf-8")
    cut = whole.index("\n", len(whole) // 2) + 1
    made = tuple(workdir / f"{text.parent.name}-{text.stem}-{part}.txt" for part in ("first", "second"))
    for path, part in zip(made, (whole[:cut], whole[cut:]), strict=True):
        path.write_text(part, encoding="utf-8")
    return made[0], made[1]


def _models(algorithm: str, inputs: Mapping[str, Artifact]) -> dict[str, object]:
    """The models as the short form names them: all, or a base and the rest."""
    names = list(inputs)
    if algorithm == "linear":
        return {"models": [{"model": name} for name in names]}
    others = names if algorithm == "slerp" else names[1:]
    return {"base": names[0], "models": [{"model": name} for name in others]}


def _measured(merged: Artifact, texts: list[Path], windows: int, seconds: float = 0.0) -> Found:
    pairs = [measure(merged.path, text, windows) for text in texts]
    return Found(tuple(nll for nll, _ in pairs), tuple(count for _, count in pairs), seconds)


def _print(found: Mapping[str, Found], texts: list[str]) -> None:
    heads = "".join(f"{text[:14]:>16}" for text in texts)
    print(f"{'':<36}{heads}{'mean log':>12}{'se':>9}{'CPU s':>9}")
    for name, each in found.items():
        columns = "".join(f"{math.exp(log):16.2f}" for log in each.logs)
        print(f"{name:<36}{columns}{each.mean:12.4f}{each.error(found[MEAN]):9.4f}{each.seconds:9.1f}")


if __name__ == "__main__":
    sys.exit(main())
