"""`merge` and `merge.METHOD` as stages: what they write, and that both forms of a recipe are one merge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.stages import base
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def weights(directory: Path) -> dict[str, Any]:
    return load_file(directory / "model.safetensors")


def expand(stage: str, values: Mapping[str, object], directory: Path) -> base.Expansion:
    found = base.get(stage).expand
    assert found is not None
    return found(values, directory, "load")


@pytest.fixture
def merged(run_stage: Any, tmp_path: Path) -> Any:
    """``(stage, values, notes=None) -> Artifact``: expanded as the pipeline does it, then run."""

    def run(stage: str, values: Mapping[str, object], notes: list[str] | None = None) -> Any:
        from pathlib import Path

        expansion = expand(stage, values, tmp_path)
        inputs = {name: Path(source.name) for name, source in expansion.sources.items()}
        return run_stage(stage, inputs, notes=notes, **expansion.values)

    return run


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "bert", "t5", "mixtral"])
def test_a_linear_merge_is_the_weighted_mean_of_every_tensor(family: str, merged: Any, sibling: Any) -> None:
    a, b = sibling(family, "a"), sibling(family, "b")
    made = merged(
        "merge.linear", {"models": [{"model": str(a), "weight": 3}, {"model": str(b), "weight": 1.0}]}
    )
    left, right, found = weights(a), weights(b), weights(made.path)
    assert set(found) == set(left)
    for name, value in found.items():
        expected = 0.75 * left[name].astype(np.float64) + 0.25 * right[name].astype(np.float64)
        assert np.abs(value - expected).max() < 1e-6, name
    assert json.loads((made.path / "config.json").read_text())["model_type"] == family.partition("-")[0]
    assert (made.path / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()
