"""Models that parameters name: the nodes they become, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.schema import param
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline import layers
from ingot.pipeline.assemble import build_graph
from ingot.pipeline.recipe import read_recipe
from ingot.stages import base
from ingot.targets.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ingot.pipeline.graph import Graph

HOST = Host("linux", "x86_64", "a processor", ("avx2",), 8, 64 << 30)
FACTS = {
    "task": "causal-lm", "architecture": "LlamaForCausalLM", "model_type": "llama",
    "parameters": 60_000_000, "weight_bytes": 120_000_000,
}  # fmt: skip


@dataclass(frozen=True)
class ToyParams:
    """Models by input, and a number."""

    models: tuple[str, ...] = param(doc="which models")
    density: float = param(1.0, doc="how much of each")


def expand(values: Mapping[str, object], directory: Path, before: str) -> base.Expansion:
    """The node before is the first input, each name after it another; `+` sets adapters off."""
    written = values.get("models")
    assert isinstance(written, list)
    sources = {"model1": base.Source(before, origin="base")}
    for place, name in enumerate(written):
        model, *adapters = name.split("+")
        sources[f"model{place + 2}"] = base.Source(model, tuple(adapters), origin=f"models[{place}]")
    return base.Expansion({**values, "models": [*sources]}, sources)


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Graph]:
    """The graph of a recipe beside the models `ckpt`, `a` and `b`, with a stage `merge.toy`."""
    for name in ("ckpt", "a", "b", "deep/a"):
        (tmp_path / name).mkdir(parents=True)
    made: base.Stage[ToyParams] = base.stage(
        "merge.toy", params=ToyParams, inputs={}, output="checkpoint", version=1, determinism="bitwise",
        tools=(), summary="", many={"model": ("checkpoint",)}, expand=expand,
    )(lambda context: base.Result({}))  # fmt: skip
    monkeypatch.setitem(sys.modules, "toy_merge", SimpleNamespace(run=made))  # type: ignore[arg-type]
    monkeypatch.setitem(base.BUILTIN, "merge.toy", "toy_merge")  # type: ignore[arg-type]

    def graph(text: str, *sets: str) -> Graph:
        overrides = layers.command_line(sets)
        written = parse_yaml(f"model: ckpt\ntargets: [cpu-fp32]\n{text}", "ingot.yaml")
        return build_graph(read_recipe(written, tmp_path, overrides), FACTS, HOST)

    return graph


def model(found: Graph, node: str) -> Any:
    return Path(getattr(found.nodes[node].params, "model", "")).name


def test_every_model_that_is_named_is_loaded_by_a_node_of_its_own(graph: Callable[..., Graph]) -> None:
    found = graph("stages:\n  merge:\n    method: toy\n    models: [a, ./b, a]\n")
    node = found.nodes["merge"]
    assert node.inputs == {"model1": "load", "model2": "load-a", "model3": "load-b", "model4": "load-a"}
    assert [model(found, name) for name in ("load-a", "load-b")] == ["a", "b"]
    assert node.params == ToyParams(models=("model1", "model2", "model3", "model4"))
    assert node.origins["models"] == "ingot.yaml:6"


def test_no_path_gets_into_the_parameters_and_so_into_the_key(graph: Callable[..., Graph]) -> None:
    one, other = (graph(f"stages: {{merge: {{method: toy, models: [{name}]}}}}\n") for name in "ab")
    assert one.nodes["merge"].params == other.nodes["merge"].params


def test_two_models_whose_folders_are_called_alike_are_two_nodes(graph: Callable[..., Graph]) -> None:
    found = graph("stages: {merge: {method: toy, models: [a, deep/a]}}\n")
    assert found.nodes["merge"].inputs == {"model1": "load", "model2": "load-a", "model3": "load-a-2"}


def test_a_name_of_a_node_is_that_node_wherever_it_is_written(graph: Callable[..., Graph]) -> None:
    found = graph(
        "stages:\n  merge: {method: toy, models: [other, load]}\n  other: {stage: load, params: {model: b}}\n"
        "  last: {stage: merge.toy, params: {models: [a]}, from: merge}\n"
    )
    assert found.nodes["merge"].inputs == {"model1": "load", "model2": "other", "model3": "load"}
    assert found.nodes["last"].inputs == {"model1": "merge", "model2": "load-a"}


def test_the_base_of_the_recipe_stands_for_the_node_before_the_merge(graph: Callable[..., Graph]) -> None:
    found = graph("base: b\nstages: {merge: {method: toy, models: [a]}}\n")
    assert found.nodes["merge"].inputs == {"model1": "load-b", "model2": "load-a"}


def test_other_parameters_may_be_set_and_fanned_out(graph: Callable[..., Graph]) -> None:
    found = graph("stages: {merge: {method: toy, models: [a]}}\nmatrix: {merge.density: [0.2, 0.5]}\n")
    assert [name for name in found.nodes if name.startswith("merge")] == [
        "merge[density=0.2]", "merge[density=0.5]",
    ]  # fmt: skip
    found = graph("stages: {merge: {method: toy, models: [a]}}\n", "merge.density=0.1")
    assert found.nodes["merge"].params == ToyParams(models=("model1", "model2"), density=0.1)


@pytest.mark.parametrize(
    ("text", "option", "what", "where"),
    [
        ("stages:\n  merge:\n    method: toy\n    models: [ax]\n", None,
         "merge.models[0]: 'ax' does not exist", "ingot.yaml:6"),
        ("base: c\nstages: {merge: {method: toy, models: [a]}}\n", None,
         "merge.base: 'c' does not exist", "ingot.yaml:4"),
        ("base: b\n", None, "base: 'b' is not used by any stage of this recipe", "ingot.yaml:3"),
        ("stages: {merge: {method: toy, models: [a]}}\n", "merge.models=b",
         "merge.models names models, which are nodes of the recipe", "--set merge.models=b"),
        ("stages: {merge: {method: toy, models: [a], densty: 1}}\n", None,
         "merge.densty: stage merge.toy has no such parameter", "ingot.yaml:3"),
        (("stages:\n  one: {stage: merge.toy, params: {models: [two]}}\n"
          "  two: {stage: merge.toy, params: {models: [a]}, from: one}\n"), None,
         "stages: one takes two, which takes one", "ingot.yaml:4"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_at_its_place(
    graph: Callable[..., Graph], text: str, option: str | None, what: str, where: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        graph(text, *([option] if option else []))
    assert (caught.value.what, caught.value.where) == (what, where)


def test_an_adapter_is_loaded_or_made_by_the_node_that_it_names(
    graph: Callable[..., Graph], tmp_path: Path
) -> None:
    (tmp_path / "style").mkdir()
    found = graph(
        "stages:\n"
        "  tuned: {stage: load, params: {model: a}}\n"
        "  change: {stage: fuse.extract_lora, from: {model: tuned, base: load}}\n"
        "  fuse:\n"
        "    {stage: fuse.lora, params: {adapters: [style, {adapter: change, weight: 0.5}]}, from: load}\n"
    )
    assert found.nodes["fuse"].inputs == {"model": "load", "adapter1": "load-style", "adapter2": "change"}
    params: Any = found.nodes["fuse"].params
    assert params.adapters[1] == {"adapter": "adapter2", "weight": 0.5}
    assert found.nodes["load-style"].stage == "load.adapter"
