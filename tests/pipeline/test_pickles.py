"""Who may allow pickles: whoever runs a recipe, by an option, and never the recipe."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from ingot.artifacts.errors import IntakeError, RecipeError
from ingot.pipeline.assemble import graph_of
from ingot.pipeline.cli.app import ingot
from ingot.pipeline.layers import command_line, environment
from ingot.pipeline.pickles import pickles_allowed, with_pickles
from ingot.pipeline.recipe import load_recipe, recipe_from_options

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pickled(tiny_checkpoint, tmp_path) -> Path:
    """A checkpoint whose weights are in pytorch_model.bin alone."""
    directory = shutil.copytree(tiny_checkpoint("llama", dtype="bfloat16"), tmp_path / "model")
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    return directory


def test_a_pickled_checkpoint_is_planned_only_with_the_option(pickled, tmp_path):
    arguments = ["plan", "--model", str(pickled), "--target", "cpu-fp32", "--store", str(tmp_path / "st")]
    refused = CliRunner().invoke(ingot, arguments)
    assert isinstance(refused.exception, IntakeError)
    assert "--allow-pickle" in refused.exception.fix
    planned = CliRunner().invoke(ingot, [*arguments, "--allow-pickle", "--resolved"])
    assert planned.exit_code == 0, planned.output
    assert "allow_pickle" in planned.output
    assert "--allow-pickle" in planned.output


@pytest.mark.parametrize("word", ["--set", "environment"])
def test_a_setting_from_outside_the_recipe_is_a_persons_word_too(pickled, word):
    set_there = command_line(["load.allow_pickle=true"])
    set_in_environment = environment({"INGOT_SET__LOAD__ALLOW_PICKLE": "true"})
    overrides = set_there if word == "--set" else set_in_environment
    recipe = recipe_from_options(str(pickled), ["cpu-fp32"], overrides=overrides)
    assert graph_of(recipe).nodes["load"].params.allow_pickle is True
    denied = command_line(["load.allow_pickle=false"])
    with pytest.raises(IntakeError, match="pickled"):
        graph_of(recipe_from_options(str(pickled), ["cpu-fp32"], overrides=denied))


def test_a_recipe_cannot_allow_pickles_and_the_option_covers_all_of_its_checkpoints(pickled, tmp_path):
    path = tmp_path / "ingot.yaml"
    node = f"stages:\n  other:\n    stage: load\n    params: {{model: {pickled}"
    path.write_text(f"model: {pickled}\n{node}, allow_pickle: true}}\n")
    with pytest.raises(RecipeError, match=r"other\.allow_pickle: a recipe cannot allow pickles") as caught:
        pickles_allowed(with_pickles(load_recipe(path)))
    assert caught.value.where == f"{path}:5"
    path.write_text(f"model: {pickled}\n{node}}}\n")
    assert pickles_allowed(load_recipe(path)) == frozenset()
    assert pickles_allowed(with_pickles(load_recipe(path))) == {"load", "other"}


def test_a_worker_loads_a_pickled_checkpoint_and_the_record_says_so(toys, pickled, store):
    node = toys.node("load", "load", model=str(pickled), allow_pickle=True)
    result = toys.run(store, node).results["load"]
    assert result.error is None
    assert any("have been converted to safetensors" in note for note in result.notes)
    assert {file.path for file in result.artifact.record.files} >= {"model.safetensors", "config.json"}
