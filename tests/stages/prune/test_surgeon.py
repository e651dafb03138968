"""The channels that survive are those whose loss, by least squares over all that stays, is the least."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "prune.structured"


def lost(weight: np.ndarray, inputs: np.ndarray, kept: list[int], width: int) -> float:
    """‖WX − ŴX_K‖² of the best Ŵ."""
    places = [channel * width + each for channel in kept for each in range(width)]
    wanted = (weight @ inputs).T
    found = np.linalg.lstsq(inputs[places].T, wanted, rcond=None)[0]
    return float(np.square(wanted - inputs[places].T @ found).sum())


def survivors(weight: np.ndarray, inputs: np.ndarray, count: int, width: int) -> list[int]:
    import torch
    from ingot.stages.prune.surgeon import surviving

    lower = torch.linalg.cholesky(torch.tensor(inputs @ inputs.T))
    return surviving(torch.tensor(weight), lower, count, width).tolist()


@pytest.mark.parametrize("width", [1, 3])
def test_the_first_to_go_is_the_one_that_the_others_make_up_for_best(width: int) -> None:
    for seed in range(5):
        generator = np.random.default_rng(seed)
        mixed = generator.normal(size=(6 * width, 6 * width))
        weight, inputs = generator.normal(size=(4, 6 * width)), mixed @ generator.normal(size=(6 * width, 80))
        candidates = [[each for each in range(6) if each != gone] for gone in range(6)]
        best = min(candidates, key=lambda kept: lost(weight, inputs, kept, width))
        assert survivors(weight, inputs, 5, width) == best


def test_what_survives_is_nearly_the_best_of_all_choices() -> None:
    generator = np.random.default_rng(3)
    weight = generator.normal(size=(4, 10))
    inputs = generator.normal(size=(10, 10)) @ generator.normal(size=(10, 200))
    every = sorted(lost(weight, inputs, list(kept), 1) for kept in itertools.combinations(range(10), 5))
    found = lost(weight, inputs, survivors(weight, inputs, 5, 1), 1)
    assert found <= every[len(every) // 20]


def test_of_two_channels_that_are_one_the_other_stays() -> None:
    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(64, 500))
    # Each of the second half repeats one of the first but for a trace: either may go, both may not.
    inputs[32:] = inputs[:32] + 1e-3 * generator.normal(size=(32, 500))
    weight = generator.normal(size=(8, 64))
    kept = survivors(weight, inputs, 32, 1)
    assert sorted(channel % 32 for channel in kept) == list(range(32))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_network_is_pruned_by_it_and_loses_less_than_by_chance(family: str, prune: Any) -> None:
    found, chance = (prune(family, STAGE, ffn=0.5, scoring=scoring) for scoring in ("obs", "random"))
    assert {entry["after"] for entry in found.artifact.facts["widths"]} == {
        entry["after"] for entry in chance.artifact.facts["widths"]
    }
    errors = [sum(entry["weighted_error"] for entry in each.tensors.values()) for each in (found, chance)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("family", "params", "said"),
    [
        ("llama", {"ffn": 0.5, "refit": False}, "obs counts on the others to make up for what goes"),
        ("llama", {"ffn": 0.5, "calibration": None}, "obs is measured on a calibration text"),
        ("qwen3", {"hidden": 0.25}, "the channels of .* are taken up by others too"),
        ("mixtral", {"experts": 2}, "the channels of .* are taken up by others too"),
    ],
)
def test_what_it_cannot_choose_is_refused(
    family: str, params: dict[str, Any], said: str, prune: Any, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=said):
        prune(family, STAGE, scoring="obs", **params)
