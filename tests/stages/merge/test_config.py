"""Merge recipes as they are written: both forms give one value, and what cannot be honoured is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from ingot.artifacts.digest import digest_json
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.yaml import parse_yaml
from ingot.stages.base import Source
from ingot.stages.merge.config import read, read_short, renamed
from ingot.stages.merge.method import get
from ingot.stages.merge.recipe import Member, Recipe, TokenRule
from ingot.stages.merge.references import Given, Inputs

TIES = """\
merge_method: ties
base_model: org/base@main
models:
  - model: org/a@v1
    parameters: {weight: 0.6, density: 0.5}
  - model: org/base@main
  - model: ./b
    parameters: {weight: 0.4}
parameters: {lambda: 1.0, int8_mask: true}
dtype: bfloat16
"""
SHORT = {
    "base": "org/base@main",
    "models": [
        {"model": "org/a@v1", "weight": 0.6, "density": 0.5},
        "org/base@main",
        {"model": "./b", "weight": 0.4},
    ],
    "lambda": 1,
    "dtype": "bfloat16",
}


def mergekit(text: str, folder: Path | None = None) -> tuple[Recipe, Inputs]:
    inputs = Inputs(folder or Path())
    return read(parse_yaml(text, "merge.yaml"), inputs), inputs


def short(values: dict[str, object], method: str = "ties", node: str | None = None) -> tuple[Recipe, Inputs]:
    inputs = Inputs(Path())
    return read_short(values, get(method), inputs, node), inputs


def test_a_file_of_mergekit_gives_every_model_an_input() -> None:
    recipe, inputs = mergekit(TIES)
    assert recipe.base == "model2"
    assert [*recipe.members()] == [
        Member("model1", {"weight": 0.6, "density": 0.5}),
        Member("model2"),
        Member("model3", {"weight": 0.4}),
    ]
    assert recipe.parameters == {"lambda": 1.0}
    assert {name: each.name for name, each in inputs.sources.items()} == {
        "model1": "org/a@v1", "model2": "org/base@main", "model3": "./b",
    }  # fmt: skip
    assert inputs.sources["model3"].origin == "models[2].model"


def test_the_short_form_is_the_same_merge() -> None:
    one, other = mergekit(TIES)[0], short(SHORT)[0]
    assert one == other
    assert digest_json(one.to_json()) == digest_json(other.to_json())


def test_names_of_inputs_in_place_of_models_are_the_same_merge_again() -> None:
    recipe, inputs = short(SHORT)
    again = read_short(renamed(SHORT, inputs), get("ties"), Given(), None)
    assert again == recipe


def test_a_recipe_is_the_same_after_json() -> None:
    text = (
        "merge_method: linear\nslices:\n"
        "- {sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}], base_model: c,\n"
        "   parameters: {weight: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}}\n"
        "tokenizer:\n  source: union\n  pad_to_multiple_of: 64\n"
        "  tokens: {x: {source: a, force: true}, y: {source: {kind: zero}},\n"
        "           z: {source: {kind: model_token, model: b, token_id: 7}}}\n"
        "chat_template: chatml\nout_dtype: float16\n"
    )
    recipe, _ = mergekit(text)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.vocabulary is not None
    assert recipe.vocabulary.tokens == {
        "x": TokenRule("model", "model1", force=True), "y": TokenRule("zero"),
        "z": TokenRule("token", "model2", token_id=7),
    }  # fmt: skip


def test_what_comes_before_a_merge_is_its_base_where_it_needs_one() -> None:
    models = {"models": [{"model": "a", "weight": 1}]}
    recipe, inputs = short(models, node="load")
    assert (recipe.base, inputs.sources["model2"]) == ("model2", Source("load", origin="base"))
    assert short(models, "linear", node="load")[0].base is None


def test_a_model_may_have_a_revision_and_adapters(tmp_path: Path) -> None:
    (tmp_path / "a+b").mkdir()
    text = (
        "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- model: org/a@rev+lora\n- model: a+b\n"
        "- model: {model: {path: org/c, revision: v2}, lora: {path: fine}}\n- model: org/a@rev\n"
    )
    _, inputs = mergekit(text, tmp_path)
    assert [(each.name, each.adapters) for each in inputs.sources.values()] == [
        ("org/a@rev", ("lora",)), ("a+b", ()), ("org/c@v2", ("fine",)), ("org/a@rev", ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "what", "line", "fix"),
    [
        ("base_model:", "base_mode:", "base_mode is not a known name", 2, "did you mean base_model?"),
        ("method: ties", "method: tis", "there is no merge method 'tis'", 1, "did you mean ties?"),
        ("density: 0.5", "densty: 0.5", "models[0].parameters.densty is not a known name", 5, "density"),
        ("weight: 0.6", "weight: much", "models[0].parameters.weight: 'much' is not a number", 5, ""),
        ("density: 0.5", "density: 1.5", "models[0].parameters.density is 1.5, above 1", 5, ""),
        ("weight: 0.6", "lambda: 0.6", "models[0].parameters.lambda is of the whole merge", 5, "once"),
        ("dtype: bfloat16", "dtype: bfloat", "dtype: 'bfloat' is not one of", 10, "did you mean bfloat16?"),
        ("base_model: org/base@main\n", "", "base_model is missing", 2, "add base_model"),
        ("  - model: org/base@main\n", "  - model: org/base@main\n    parameters: {weight: 1}\n",
         "gives weight to the base", 3, "take weight out there"),
        ("dtype: bfloat16", "slices: [{sources: []}]", "merge.yaml has models and slices", 10, "exactly one"),
        ("dtype: bfloat16", "tokenizer_source: org/c", "tokenizer_source: 'org/c' is not a model of",
         10, "org/a@v1"),
        ("dtype: bfloat16", "tokenizer: {source: union, tokens: {x: {source: {kind: zer}}}}",
         "tokenizer.tokens.x.source.kind: 'zer' is not one of", 10, "did you mean zero?"),
        ("dtype: bfloat16", "chat_template: chatlm", "chat_template: 'chatlm' is not a chat template", 10,
         "chatml"),
        ("dtype: bfloat16", 'chat_template: "{{ x.__class__ }}"', "chat_template reaches for '__class__'", 10,
         ""),
        ("lambda: 1.0", "normalize: [true, false]", "parameters.normalize cannot change from layer",
         9, ""),
        ("lambda: 1.0", "lambda: [{filter: mlp}]", "parameters.lambda[0] has no value", 9, "filter"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_named_with_its_line(
    old: str, new: str, what: str, line: int, fix: str
) -> None:
    assert old in TIES
    with pytest.raises(RecipeError) as caught:
        mergekit(TIES.replace(old, new, 1))
    assert what in caught.value.what
    assert caught.value.where == f"merge.yaml:{line}"
    assert fix in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("slices", "what"),
    [
        ("[{sources: [{model: a, layer_range: [0, 2]}], residual_weight: 0.5}]", "slices[0].residual_weight"),
        ("[{sources: [{model: a, layer_range: [2, 2]}]}]", "slices[0].sources[0].layer_range"),
        ("[{sources: [{model: a}]}]", "slices[0].sources[0].layer_range: None"),
        ("[{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]}]",
         "slices[0] takes 2 and 3 layers of its sources"),
        ("[{sources: []}]", "slices[0] has no sources"),
    ],
)  # fmt: skip
def test_slices_that_mean_nothing_are_refused(slices: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        mergekit(f"merge_method: linear\nparameters: {{weight: 1}}\nslices: {slices}\n")
    assert what in caught.value.what
    assert caught.value.where == "merge.yaml:3"


def test_too_few_models_are_refused_with_what_the_method_takes() -> None:
    with pytest.raises(RecipeError, match="models has 0 models beside the base, but ties takes at least 1"):
        short({"base": "a", "models": ["a"], "weight": 1})


def test_a_parameter_that_is_written_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"lambda is written twice"):
        short({**SHORT, "parameters": {"lambda": 2}})
