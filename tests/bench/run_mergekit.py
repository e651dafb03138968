"""Carries out recipes with mergekit, in its environment; random methods are given what Ingot draws.

    python tests/bench/run_mergekit.py RECIPES RANDOM DIRECTORY

RECIPES: a JSON list.  RANDOM: Ingot's `stages/merge/random.py`.  The n-th output is in DIRECTORY/n.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge
from mergekit.options import MergeOptions

SEED = 0


def main(recipes: Path, random: Path, directory: Path) -> None:
    """Merges one after another."""
    _share_draws(_module(random).Stream)
    options = MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False, device="cpu")
    for number, recipe in enumerate(json.loads(recipes.read_text())):
        run_merge(MergeConfiguration.model_validate(recipe), str(directory / str(number)), options)
        written = list((directory / str(number)).glob("*.safetensors"))
        written[0].rename(directory / str(number) / "model.safetensors")


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("ingot_random", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ingot_random"] = module
    spec.loader.exec_module(module)
    return module


def _share_draws(stream: Any) -> None:
    """Has mergekit's masks be of the draws that Ingot makes for the same tensor and input."""
    merge_group = GeneralizedTaskArithmeticMerge.merge_group

    def named(self: Any, group: Any, /, **parameters: Any) -> torch.Tensor:
        densities = [parameters["density"][entry.id] for entry in group.non_base]
        # It prunes inputs in their order, save those of which all is kept.
        pruned = iter([number for number, density in enumerate(densities) if density < 1])

        def bernoulli(probabilities: torch.Tensor) -> torch.Tensor:
            drawn = stream.of(SEED, group.metadata.name, next(pruned))
            count = probabilities.numel()
            least, most = probabilities.aminmax()
            if least == most:
                density = next(d for d in densities if math.isclose(d, float(least), rel_tol=1e-6))
                kept = torch.from_numpy(drawn.keeps(0, count, density))
            else:
                kept = torch.from_numpy(drawn.uniform(0, count)) < probabilities.flatten()
            return kept.reshape(probabilities.shape).to(probabilities.dtype)

        torch.bernoulli = bernoulli
        return merge_group(self, group, **parameters)

    GeneralizedTaskArithmeticMerge.merge_group = named


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
