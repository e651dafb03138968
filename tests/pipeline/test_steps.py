"""The long form: named nodes, `from:`, several inputs by name, targets as leaves, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.schema import param
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline import layers
from ingot.pipeline.assemble import build_graph
from ingot.pipeline.recipe import read_recipe
from ingot.pipeline.steps import read_steps
from ingot.stages import base
from ingot.targets.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.pipeline.graph import Graph

HOST = Host("linux", "x86_64", "a processor", ("avx2", "avx512_vnni"), 8, 64 << 30)
FACTS = {
    "task": "causal-lm", "architecture": "LlamaForCausalLM", "model_type": "llama",
    "parameters": 60_000_000, "weight_bytes": 120_000_000,
}  # fmt: skip


@dataclass(frozen=True)
class ToyParams:
    """Parameters of stages that exist for these tests alone."""

    ffn: float = param(0.5, doc="how much is kept")
    style: str = param("plain", choices=("plain", "fancy"), doc="how it is done")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers `prune.toy` and `distill.toy`, which make a checkpoint from one and from two of them."""
    like = base.get("quantize.rtn")
    one = {"model": ("checkpoint",)}
    two = {"student": ("checkpoint",), "teacher": ("checkpoint",)}
    for name, inputs in (("prune.toy", one), ("prune.other", one), ("distill.toy", two)):
        found = replace(like, name=name, inputs=inputs, output="checkpoint", params=ToyParams)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(run=found))  # type: ignore[arg-type]
        monkeypatch.setitem(base.BUILTIN, name, name)  # type: ignore[arg-type]


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Graph]:
    """The graph of a recipe for `ckpt`, whose lines count from the first after `model:`."""
    for name in ("ckpt", "other"):
        (tmp_path / name).mkdir()

    def graph(text: str, *sets: str, environ: dict[str, str] | None = None) -> Graph:
        overrides = (*layers.environment(environ or {}), *layers.command_line(sets))
        recipe = read_recipe(parse_yaml(f"model: ckpt\n{text}", "ingot.yaml"), tmp_path, overrides)
        return build_graph(recipe, FACTS, HOST)

    return graph


def edges(found: Graph) -> dict[str, dict[str, str]]:
    return {node.name: dict(node.inputs) for node in found.nodes.values()}


def params(found: Graph, name: str) -> Any:
    return found.node(name).params


DIAMOND = """
targets: {cpu-int8: }
stages:
  thin:
    stage: prune.toy
    params: {ffn: 0.25}
    from: load
  healed: {stage: distill.toy, from: {student: thin, teacher: load}}
"""


def test_named_nodes_take_what_they_say_and_the_target_takes_the_last_checkpoint(
    graph: Callable[..., Graph],
) -> None:
    found = graph(DIAMOND)
    assert edges(found)["thin"] == {"model": "load"}
    assert edges(found)["healed"] == {"student": "thin", "teacher": "load"}
    assert edges(found)["quantize@cpu-int8"] == {"model": "healed"}
    assert edges(found)["reference"] == {"model": "load"}
    assert params(found, "thin").ffn == 0.25
    assert found.node("thin").origins == {"ffn": "ingot.yaml:7"}


def test_nodes_may_be_written_in_any_order(graph: Callable[..., Graph]) -> None:
    head, thin, healed = DIAMOND.partition("  thin:")[0], *DIAMOND.partition("  thin:")[2].split("  healed:")
    turned = graph(f"{head}  healed:{healed.rstrip()}\n  thin:{thin}")
    assert {name: node.inputs for name, node in turned.nodes.items()} == {
        name: node.inputs for name, node in graph(DIAMOND).nodes.items()
    }


def test_a_short_entry_is_a_long_one_under_its_familys_name(graph: Callable[..., Graph]) -> None:
    short = graph("stages: {prune: {method: toy, ffn: 0.25}, quantize: {method: rtn, bits: 8}}\n")
    long = graph(
        "stages:\n"
        "  prune: {stage: prune.toy, params: {ffn: 0.25}, from: load}\n"
        "  quantize: {stage: quantize.rtn, params: {bits: 8}}\n"
    )
    assert edges(short) == edges(long)
    assert all(short.nodes[name].same_work(long.nodes[name]) for name in short.nodes)


def test_an_entry_without_from_takes_the_one_before_it(graph: Callable[..., Graph]) -> None:
    found = graph(
        "stages:\n"
        "  first: {stage: prune.toy}\n"
        "  prune: {method: toy, ffn: 0.1}\n"
        "  last: {stage: prune.toy, params: {ffn: 0.2}}\n"
    )
    assert edges(found)["first"] == {"model": "load"}
    assert edges(found)["prune"] == {"model": "first"}
    assert edges(found)["last"] == {"model": "prune"}


def test_short_and_long_entries_may_name_their_input(graph: Callable[..., Graph]) -> None:
    found = graph(
        "targets: {a: {profile: cpu-int8, from: thin}, b: {profile: cpu-int8, from: prune}}\n"
        "stages:\n"
        "  thin: {stage: prune.toy}\n"
        "  prune: {method: toy, ffn: 0.1, from: load}\n"
    )
    assert edges(found)["prune"] == {"model": "load"}
    assert edges(found)["quantize@a"] == {"model": "thin"}
    assert edges(found)["quantize@b"] == {"model": "prune"}


def test_a_target_may_take_a_quantized_checkpoint_and_only_exports_it(graph: Callable[..., Graph]) -> None:
    found = graph(
        "targets: {cpu-int4: {from: small}}\n"
        "stages: {small: {stage: quantize.rtn, params: {bits: 4}, from: load}}\n"
    )
    assert edges(found)["export@cpu-int4"] == {"model": "small"}
    assert not any(name.startswith("quantize@") for name in found.nodes)
    gates = {(gate.metric, gate.limit) for gate in found.targets["cpu-int4"].gates}
    assert ("perplexity", "5%") in gates, "the gates of 4-bit weights"


def test_a_target_may_take_what_its_runtime_opens_and_compares_cost_with_the_same_export(
    graph: Callable[..., Graph],
) -> None:
    found = graph(
        "targets: {cpu: {from: small-onnx}}\n"
        "stages:\n"
        "  small: {stage: quantize.rtn, params: {bits: 8}, from: load}\n"
        "  small-onnx: {stage: export.onnx, params: {opset: 24, accuracy_level: 0}, from: small}\n"
    )
    assert found.targets["cpu"].artifact == "small-onnx"
    assert params(found, "export@reference") == params(found, "small-onnx")
    assert edges(found)["export@reference"] == {"model": "load"}
    assert edges(found)["quality@cpu"] == {"artifact": "small-onnx", "reference": "reference"}


def test_two_targets_share_a_node_that_both_take(graph: Callable[..., Graph]) -> None:
    found = graph(
        "targets: {a: {profile: cpu, from: small}, b: {profile: cpu, from: small}}\n"
        "stages: {small: {stage: quantize.rtn, from: load}}\n"
    )
    assert found.targets["a"].artifact == found.targets["b"].artifact == "export@a"
    assert len(found.nodes) == len(("load", "small", "export@a", "quality@a", "cost@a")) + 2


def test_further_checkpoints_are_loaded_by_nodes_of_their_own(
    graph: Callable[..., Graph], tmp_path: Path
) -> None:
    found = graph(
        "stages:\n"
        "  teacher: {stage: load, params: {model: ./other}}\n"
        "  taught: {stage: distill.toy, from: {student: load, teacher: teacher}}\n"
    )
    assert params(found, "teacher").model == str(tmp_path / "other")
    assert edges(found)["taught"] == {"student": "load", "teacher": "teacher"}


def test_a_node_that_loads_the_recipes_model_is_the_recipes_model(
    graph: Callable[..., Graph], tmp_path: Path
) -> None:
    found = graph("stages: {again: {stage: load, params: {model: ckpt}}}\n")
    assert found.node("again") is found.nodes["load"]
    assert edges(found) == edges(graph(""))


def test_a_target_and_a_reference_past_the_recipes_model_still_measure_cost_with_it(
    graph: Callable[..., Graph],
) -> None:
    found = graph("reference: a\nstages: {a: {stage: load, params: {model: other}}}\n")
    assert edges(found)["reference"] == edges(found)["quantize@cpu"] == {"model": "a"}
    assert edges(found)["cost@cpu"]["source"] == "load"
    assert next(iter(found.nodes)) == "load"


def test_a_quantized_reference_is_measured_as_the_weights_that_its_codes_stand_for(
    graph: Callable[..., Graph],
) -> None:
    found = graph("reference: small\nstages: {small: {stage: quantize.rtn}}\ntargets: {cpu: {from: small}}\n")
    assert edges(found)["dequantize@small"] == {"model": "small"}
    assert edges(found)["reference"] == {"model": "dequantize@small"}
    assert found.nodes["dequantize@small"].stage == "dequantize"


def test_options_and_variables_reach_named_nodes(graph: Callable[..., Graph]) -> None:
    text = "stages: {my-node: {stage: prune.toy, params: {ffn: 0.25}}}\n"
    assert params(graph(text, "my-node.ffn=0.75"), "my-node").ffn == 0.75
    assert params(graph(text, environ={"INGOT_SET__MY_NODE__FFN": "0.5"}), "my-node").ffn == 0.5
    assert graph(text, "my-node.method=other").nodes["my-node"].stage == "prune.other"


def test_the_reference_may_be_a_named_node(graph: Callable[..., Graph]) -> None:
    found = graph(f"reference: thin\n{DIAMOND}")
    assert edges(found)["reference"] == {"model": "thin"}
    assert edges(found)["export@reference"] == {"model": "thin"}


CASES = [
    ("stages:\n  a: {stage: prune.toy, from: b}\n  b: {stage: prune.toy, from: a}\n",
     "a takes b, which takes a", 3, "outside the circle"),
    ("stages:\n  a: {stage: prune.toy, from: a}\n", "a takes a", 3, "outside the circle"),
    (("stages:\n  z: {stage: prune.toy}\n  a:\n    stage: distill.toy\n    from:\n      student: z\n"
     "      teacher: b\n  b: {stage: prune.toy, from: c}\n  c: {stage: prune.toy, from: a}\n"),
     "a takes b, which takes c, which takes a", 8, None),
    ("stages:\n  a: {stage: prune.toy, from: laod}\n", "no node 'laod'", 3, "did you mean load?"),
    ("stages:\n  a:\n    stage: distill.toy\n    from:\n      student: load\n      teacher: x\n",
     "no node 'x'", 7, "nodes are load, a"),
    ("targets:\n  cpu:\n    from: smal\nstages:\n  small: {stage: quantize.rtn, from: load}\n",
     "targets.cpu.from: there is no node 'smal'", 4, "did you mean small?"),
    ("stages:\n  a: {stage: prune.toy}\n  a: {stage: prune.toy}\n", "written twice (first in", 4, None),
    ("stages:\n  a: {stage: prune.toy, from: load}\n  b: {stage: prune.toy, from: load}\n",
     "stages.a: no target comes from it", 3, "from: a"),
    ("stages:\n  small: {stage: quantize.rtn, from: load}\n", "no target comes from it", 3, None),
    ("stages:\n  a: {stage: quantize.rtn, from: load}\n  b: {stage: prune.toy, from: a}\n",
     "b: stage prune.toy takes checkpoint as 'model', but a (quantize.rtn) makes quantized-checkpoint", 4,
     "these fit: load"),
    ("stages:\n  a: {stage: distill.toy, from: load}\n", "takes 2 inputs, not one", 3, "student: NODE"),
    ("stages:\n  a: {stage: distill.toy, from: {student: load}}\n", "needs the input 'teacher'", 3, None),
    ("stages:\n  a: {stage: prune.toy, from: {modle: load}}\n", "has no input 'modle'", 3, "are model"),
    ("stages:\n  a: {stage: load, params: {model: other}, from: load}\n", "takes 0 inputs", 3, "from out"),
    ("stages:\n  a: {stage: load, params: {model: othr}}\n", "model: 'othr' does not exist", 3, "other"),
    ("stages:\n  a: {stage: prune.tou}\n", "no stage 'prune.tou'", 3, "did you mean prune.toy?"),
    ("stages:\n  a: {stage: prune.toy, parms: {}}\n", "stages.a.parms is not a known name", 3, "params?"),
    ("stages:\n  a: {stage: prune.toy, params: {fn: 1.0}}\n", "a.fn: stage prune.toy has no such", 3, "ffn?"),
    ("stages:\n  a: {stage: prune.toy, params: {style: odd}}\n", "a.style: 'odd' is not one of", 3, None),
    ("stages:\n  a: {stage: prune.toy, from: [load]}\n", "a.from: ['load'] names no node", 3, None),
    ("stages:\n  a: {ffn: 0.5}\n", "stages.a is no family of stages", 3, "stage: FAMILY.METHOD"),
    ("stages:\n  My Node: {stage: prune.toy}\n", "'My Node' cannot be the name of a node", 3, None),
    ("stages:\n  reference: {stage: prune.toy}\n", "cannot be called 'reference'", 3, None),
    ("stages:\n  load: {stage: load, params: {model: other}}\n", "cannot be called 'load'", 3, None),
    ("stages:\n  a: {stage: validate.cost}\n", "validate.cost belongs to the targets", 3, "measure:"),
    ("stages:\n  quantize: {stage: quantize.rtn, from: load}\n", "quantize belongs to the targets", 3, None),
    ("stages:\n  quantize: {stage: prune.toy}\n", "prune.toy is no stage of quantize", 3, None),
    ("targets:\n  cpu:\n    quantize: {method: rtn, from: load}\n", "takes what comes before it", 4, None),
    ("targets:\n  cpu: {from: small, quantize: {bits: 4}}\nstages: {small: {stage: quantize.rtn}}\n",
     "quantize.bits has no effect: cpu takes small", 3, "set it on small"),
    ("targets: {cpu: {from: small}}\nstages:\n  quantize: {bits: 4}\n  small: {stage: quantize.rtn}\n",
     "quantize.bits has no effect: every target", 4, None),
    ("targets: {cpu: {from: r}}\nstages: {r: {stage: load, params: {model: other}}}\nreference: nope\n",
     "reference.nope is not a known name", 4, None),
    ("targets: {cpu-int8: {from: small}}\nstages: {small: {stage: quantize.rtn, params: {bits: 4}}}\n",
     "cpu-int8 does not take weights of int4", 2, "it takes int8"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "line", "fix"), CASES)
def test_what_is_no_sound_graph_is_refused_with_its_line_and_a_fix(
    graph: Callable[..., Graph], text: str, what: str, line: int, fix: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        graph(text)
    assert what in caught.value.what
    assert caught.value.where == f"ingot.yaml:{line}"
    if fix is not None:
        assert fix in str(caught.value.fix)


@given(st.permutations(range(6)), st.data())
def test_any_acyclic_graph_is_put_in_an_order_that_can_run(order: list[int], data: st.DataObject) -> None:
    takes: dict[str, object] = {}
    for rank, name in enumerate(order):
        source = data.draw(st.sampled_from(["load", *(f"n{other}" for other in order[:rank])]))
        takes[f"n{name}"] = {"stage": "quantize.rtn", "from": source}
    written = {name: takes[name] for name in sorted(takes)}
    steps, _ = read_steps(written, parse_yaml(json.dumps({"stages": written}), "r.yaml"))
    seen = {"load"}
    for step in steps:
        assert set(step.takes.values()) <= seen
        seen.add(step.name)
    assert seen == {"load", *written}
