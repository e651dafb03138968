"""Stages that know whole layers alone are not put behind one that factors or shares: refused in the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

FACTOR = "factor: {method: svd, ratio: 0.5}"


def graph(directory: Path, *steps: str, target: str = "cpu") -> Any:
    from ingot.artifacts.yaml import parse_yaml
    from ingot.pipeline.assemble import graph_of
    from ingot.pipeline.recipe import read_recipe

    lines = [f"model: {directory}", f"targets: [{target}]", "stages:", *(f"  {step}" for step in steps)]
    return graph_of(read_recipe(parse_yaml("\n".join(lines), "ingot.yaml"), directory))


def test_what_takes_factored_layers_is_planned_behind_them(tiny_checkpoint: Any) -> None:
    found = graph(tiny_checkpoint("llama"), FACTOR, "prune: {method: magnitude}", target="cpu-int8")
    assert [node.stage for node in found.nodes.values() if "factor" in node.name] == ["factor.svd"]


@pytest.mark.parametrize(
    "step", ["fuse: {method: rotate}", "share: {method: layers, every: 2}", "finetune: {method: full}"]
)
def test_what_knows_whole_layers_alone_is_refused_behind_them(step: str, tiny_checkpoint: Any) -> None:
    with pytest.raises(RecipeError, match="works on whole layers") as caught:
        graph(tiny_checkpoint("llama"), FACTOR, "prune: {method: magnitude}", step)
    assert "expand" in str(caught.value.fix)


def test_written_out_whole_they_are_taken_by_everything(tiny_checkpoint: Any) -> None:
    assert graph(tiny_checkpoint("llama"), FACTOR, "expand: {}", "fuse: {method: rotate}").targets


def test_a_source_that_is_factored_already_is_told_by_its_config(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    import shutil

    made = run_stage("factor.svd", {"model": tiny_checkpoint("llama")}, ratio=0.5)
    directory = tmp_path / "factored"
    shutil.copytree(made.path, directory)
    assert graph(directory, "prune: {method: magnitude}").targets
    with pytest.raises(RecipeError, match=r"fuse\.rotate works on whole layers"):
        graph(directory, "fuse: {method: rotate}")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("factor: {method: svd, ratio: 1.5}", "factor.ratio: 1.5 is above 1.0"),
        ("factor: {method: svd, ratio: 0.5, budget: 0.5}", "ratio and budget are 2 ways"),
        ("share: {method: layers}", "neither groups nor every"),
    ],
)
def test_what_cannot_be_is_refused_in_the_plan(step: str, message: str, tiny_checkpoint: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        graph(tiny_checkpoint("llama"), step)


@pytest.mark.parametrize(
    ("stage", "params", "message"),
    [
        ("factor.svd", {"only": ("*.nope",)}, r"factor.only: '\*.nope' matches no weight"),
        ("factor.svd", {"ratio": 0.5, "multiple_of": 512}, "no weight would become smaller"),
        ("share.layers", {"groups": ((1, 7),)}, "there is no layer 7, only 0 to 1"),
    ],
)
def test_what_the_network_does_not_have_is_refused_before_anything_runs(
    stage: str, params: Any, message: str, tiny_checkpoint: Any
) -> None:
    from ingot.artifacts.schema import build
    from ingot.stages import base

    found = base.get(stage)
    with pytest.raises(RecipeError, match=message):
        found.preflight(build(found.params, params), {"model": tiny_checkpoint("llama")})
