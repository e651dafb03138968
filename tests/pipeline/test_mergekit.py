"""mergekit files in place of recipes: what they are taken for, and what they leave open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline.mergekit import is_mergekit, recipe_values
from ingot.pipeline.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

TIES = "merge_method: ties\nmodels:\n- model: a\nbase_model: b\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TIES, True),
        ("slices:\n- sources:\n  - model: a\n    layer_range: [0, 2]\n", True),
        ("model: a\n", False),
        ("model: a\nstages: {merge: {method: ties}}\n", False),
        ("targets: [cpu]\n", False),
        ("- a\n", False),
    ],
)
def test_a_file_without_a_model_that_says_how_to_merge_is_one_of_mergekit(text: str, expected: bool) -> None:
    assert is_mergekit(parse_yaml(text, "file.yaml")) is expected


def test_it_is_compared_with_its_base_unless_another_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, written = tmp_path / "file.yaml", parse_yaml(TIES, "file.yaml")
    merge = {"merge": {"config": "file.yaml"}}
    assert recipe_values(written, path, {}).value == {"model": "b", "stages": merge}
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path)
    beside = {"model": "c", "targets": ["cpu-int8"], "data": {"selection": ["s", "t"]}, "seed": 3}
    assert recipe_values(written, path, beside).value == {
        "model": str(tmp_path / "c"), "stages": merge, "targets": ["cpu-int8"], "seed": 3,
        "data": {"selection": [str(tmp_path / "s"), str(tmp_path / "t")]},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="stages were given beside a mergekit file"):
        recipe_values(written, path, {"stages": {}})


@pytest.mark.parametrize(
    ("base", "what"),
    [("", "this mergekit file names no base_model"), ("base_model: b+c\n", "'b+c' is no plain model")],
)
def test_without_a_plain_base_a_model_has_to_be_named(tmp_path: Path, base: str, what: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(f"merge_method: linear\nmodels:\n- model: a\n{base}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.what == what
    assert "--model DIRECTORY" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"model": "ckpt"}, "model was given beside a recipe"),
        ({"targets": ["cpu"]}, "targets was given beside a recipe"),
        ({"data": {"evaluation": "t"}}, r"data \(evaluation\) was given beside a recipe"),
    ],
)
def test_what_only_a_mergekit_file_leaves_open_is_refused_beside_a_recipe(
    tmp_path: Path, given: dict[str, Any], what: str
) -> None:
    path = tmp_path / "ingot.yaml"
    path.write_text("model: .\n")
    with pytest.raises(RecipeError, match=what):
        load_recipe(path, (), given)
