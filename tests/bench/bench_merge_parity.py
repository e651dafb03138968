"""Every method of mergekit's through mergekit and through Ingot, on whole checkpoints: what differs where.

    python tests/bench/bench_merge_parity.py --mergekit PYTHON [--workdir DIR]

The cases are those of `tests/stages/merge/golden/cases.json`; each becomes a recipe of mergekit's that both
take, for Llamas of 1M parameters with random weights. Random methods draw the same numbers: mergekit is given
Ingot's. Bar: 1e-6 in float32 and the same bits in bfloat16 for `linear`. Three things are told apart from it:
- where a method adds up whole tensors, mergekit's own sums in float32 may be farther off: its float64 is what
  counts ("float64"), the row beside it shows what float32 makes of that;
- in TIES on bfloat16 models differences tie, and elements that tie with the last one kept may differ;
- in Arcee Fusion, elements whose importance is within 1e-4 of the threshold may be on either side of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ingot.artifacts.store import Store
from ingot.stages import base
from machine import described, working_directory
from make_siblings import TUNED, WIDE, make
from quantize_rows import run_stage
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "stages" / "merge" / "golden" / "cases.json"
MOST = 1e-6
SIZE = "1M"
# Methods whose coefficients are made of sums over whole tensors.
SUMS = ("slerp", "nuslerp", "multislerp", "karcher")
NEAR = 1e-4

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One recipe. paths: of the base and the models.  tied: whether elements that tie may differ.

    precise: whether mergekit computes in float64.
    """

    method: str
    base: bool
    parameters: Mapping[str, Any]
    paths: Sequence[Path]
    dtype: str
    tied: bool = False
    precise: bool = False

    def theirs(self) -> dict[str, object]:
        """The recipe as mergekit is given it."""
        wide = {"dtype": "float64", "out_dtype": self.dtype} if self.precise else {}
        return {**self.recipe(), **wide}

    def recipe(self) -> dict[str, object]:
        """A recipe of mergekit's; JSON is YAML."""
        own = {name: value for name, value in self.parameters.items() if isinstance(value, list)}
        models: list[dict[str, object]] = [
            {"model": str(path), "parameters": {name: value[index] for name, value in own.items()}}
            for index, path in enumerate(self.paths[1:])
        ]
        recipe: dict[str, object] = {"merge_method": self.method, "models": models, "dtype": self.dtype}
        if self.base:
            recipe["base_model"] = str(self.paths[0])
        shared = {name: value for name, value in self.parameters.items() if name not in own}
        return {**recipe, "parameters": shared} if shared else recipe


def main() -> int:
    """Prints a line a case; 1 when a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", metavar="PYTHON", required=True, help="an interpreter that has it")
    parser.add_argument("--workdir", type=Path, help="keeps models and outputs; temporary by default")
    options = parser.parse_args()
    is_met = True
    with described(), working_directory(options.workdir) as workdir:
        cases = _cases(workdir)
        recipes = workdir / "recipes.json"
        recipes.write_text(json.dumps([case.theirs() for case in cases]))
        driver = Path(__file__).with_name("run_mergekit.py")
        random = ROOT / "stages" / "merge" / "random.py"
        subprocess.run([options.mergekit, driver, recipes, random, workdir / "theirs"], check=True)
        print(f"{'':<44}{'elements':>10}{'largest':>11}{'beyond 1e-6':>13}")
        for number, case in enumerate(cases):
            ours = _ours(case, workdir)
            theirs = load_file(workdir / "theirs" / str(number) / "model.safetensors")
            is_met &= _compare(case, ours, theirs)
    print(f"bar {'met' if is_met else 'NOT MET'}")
    return int(not is_met)


def _cases(workdir: Path) -> list[Case]:
    wide = make(workdir / "wide", SIZE, 3, WIDE)
    tuned = make(workdir / "tuned", SIZE, 3, TUNED)
    cases = []
    for each in json.loads(CASES.read_text()):
        if each["shape"] == "matrix":
            paths = (wide if each["dtype"] == "float32" else tuned)[: 1 + each["models"]]
            case = Case(each["method"], each["base"], each["parameters"], paths, each["dtype"])
            cases += [case, replace(case, precise=True)] if case.method in SUMS else [case]
            if each["method"] == "ties" and not each["parameters"].get("rescale"):
                cases.append(Case("ties", True, each["parameters"], tuned, "float32", tied=True))
    return cases


def _ours(case: Case, workdir: Path) -> Weights:
    config = workdir / "recipe.yml"
    config.write_text(json.dumps(case.recipe()))
    expand = base.get("merge").expand
    assert expand is not None
    expansion = expand({"config": str(config)}, workdir, "load")
    store = Store.open(workdir / "store")
    inputs = {
        name: run_stage(store, "load", {}, {"model": source.name})[0]
        for name, source in expansion.sources.items()
    }
    return load_file(run_stage(store, "merge", inputs, expansion.values)[0].path / "model.safetensors")


def _compare(case: Case, ours: Weights, theirs: Weights) -> bool:
    """Prints what differs, and says whether it may."""
    if ours.keys() != theirs.keys():
        print(f"{case.method}: other tensors: {sorted(ours.keys() ^ theirs.keys())}")
        return False
    elements, beyond, excused, largest = 0, 0, 0, 0.0
    tied = _tied(case) if case.tied else _near(case) if case.method == "arcee_fusion" else {}
    for name, found in ours.items():
        expected = theirs[name]
        if found.dtype != expected.dtype:
            print(f"{case.method}: {name} is {found.dtype}, not {expected.dtype}")
            return False
        distance = (found.float() - expected.float()).abs()
        differs = found != expected if case.dtype == "bfloat16" else distance > MOST
        may = tied.get(name, torch.zeros_like(differs))
        elements, beyond = elements + found.numel(), beyond + int((differs & ~may).sum())
        excused += int((differs & may).sum())
        largest = max(largest, float(distance[~may].max()) if (~may).any() else 0.0)
    kind = "with ties " if case.tied else "float64 " if case.precise else ""
    shown = f"{case.method} {kind}{case.dtype} {_shown(case.parameters)}"
    more = f"  {excused} more at the threshold" if tied else ""
    print(f"{shown:<44.43}{elements:>10}{largest:>11.1e}{beyond:>13}{more}", flush=True)
    return not beyond or (case.method in SUMS and not case.precise)


def _tied(case: Case) -> dict[str, torch.Tensor]:
    """Where some model's difference is as large as the smallest that its density keeps."""
    origin, *models = (load_file(path / "model.safetensors") for path in case.paths)
    found = {name: torch.zeros(each.shape, dtype=torch.bool) for name, each in origin.items()}
    for model, density in zip(models, case.parameters["density"], strict=True):
        for name, each in origin.items():
            delta = (model[name].float() - each.float()).abs()
            kept = max(1, int(density * delta.numel()))
            if density < 1:
                found[name] |= delta == float(np.sort(delta.flatten().numpy())[-kept])
    return found


def _near(case: Case) -> dict[str, torch.Tensor]:
    """Where importance is near the threshold, by the definition of both in float64."""
    origin, model = (load_file(path / "model.safetensors") for path in case.paths)
    found = {}
    for name, each in origin.items():
        base_, other = each.double(), model[name].double()
        p, q = (torch.softmax(values, -1) + 1e-8 for values in (other, base_))
        importance = (other - base_).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
        ordered = importance.flatten().sort().values
        low, median, high = (float(ordered[int((len(ordered) - 1) * share)]) for share in (0.25, 0.5, 0.75))
        threshold = median + 1.5 * (high - low)
        found[name] = (importance - threshold).abs() <= NEAR * threshold
    return found


def _shown(parameters: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in parameters.items() if not isinstance(value, list))


if __name__ == "__main__":
    sys.exit(main())
