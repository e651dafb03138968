"""Graphs: typed edges, shared nodes, and what a recipe and a profile turn into."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import DataError, RecipeError
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline import layers
from ingot.pipeline.assemble import build_graph
from ingot.pipeline.data import BUNDLED
from ingot.pipeline.graph import Builder, Graph, Node
from ingot.pipeline.recipe import read_recipe
from ingot.stages import base
from ingot.targets.host import Host

HOST = Host("linux", "x86_64", "a processor", ("avx2", "avx512_vnni"), 8, 64 << 30)
FACTS = {
    "task": "causal-lm", "architecture": "LlamaForCausalLM", "model_type": "llama",
    "parameters": 60_000_000, "weight_bytes": 120_000_000,
}  # fmt: skip
TWO = "targets: {a: {profile: cpu}, b: {profile: cpu}}\n"
PLAIN = ["load", "export@reference", "reference"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "held-out.txt").write_text("something that is held out, " * 16)
    return tmp_path


def graph(
    folder: Path,
    text: str = "",
    *sets: str,
    host: Host = HOST,
    environ: dict[str, str] | None = None,
    **facts: object,
) -> Graph:
    """The graph of a recipe for `ckpt`, under `--set` options and environment variables."""
    overrides = (*layers.environment(environ or {}), *layers.command_line(sets))
    recipe = read_recipe(parse_yaml(f"model: ckpt\n{text}", "ingot.yaml"), folder, overrides)
    return build_graph(recipe, {**FACTS, **facts}, host)


def params(found: Graph, name: str) -> Any:
    return found.node(name).params


def test_the_default_graph_is_that_of_the_design(folder: Path) -> None:
    found = graph(folder, "targets: [cpu]\n")
    edges = {node.name: dict(node.inputs) for node in found.nodes.values()}
    assert edges == {
        "load": {},
        "export@reference": {"model": "load"},
        "reference": {"model": "load"},
        "quantize@cpu": {"model": "load"},
        "export@cpu": {"model": "quantize@cpu"},
        "quality@cpu": {"artifact": "export@cpu", "reference": "reference"},
        "cost@cpu": {"artifact": "export@cpu", "reference": "export@reference", "source": "load"},
    }
    assert found.targets["cpu"].nodes == ("export@cpu", "quality@cpu", "cost@cpu")
    owners = {node.name: node.target for node in found.nodes.values()}
    assert {name for name, owner in owners.items() if owner is None} == set(PLAIN)
    assert params(found, "load").model == str(folder / "ckpt")


@pytest.mark.parametrize("targets", ["[cpu]", "[cpu, cpu-int8, cpu-int4, cpu-fp32]"])
def test_nodes_come_after_what_they_take_and_every_edge_fits(folder: Path, targets: str) -> None:
    found = graph(folder, f"targets: {targets}\n")
    seen: set[str] = set()
    for node in found.nodes.values():
        assert set(node.inputs.values()) <= seen
        stage = base.get(node.stage)
        for name, source in node.inputs.items():
            assert base.get(found.nodes[source].stage).output in stage.inputs[name]
        seen.add(node.name)


def test_targets_share_what_does_not_depend_on_them(folder: Path) -> None:
    found = graph(folder, "targets: [cpu-int8, cpu-int4]\n")
    assert [name for name in found.nodes if "@cpu" not in name] == PLAIN
    assert len(found.nodes) == len(PLAIN) + 2 * 4


def test_equal_work_of_two_targets_is_one_node_under_two_names(folder: Path) -> None:
    found = graph(folder, "targets: [cpu, cpu-int8]\n")
    assert found.node("quantize@cpu-int8") is found.nodes["quantize@cpu"]
    assert found.nodes["quantize@cpu"].target is None
    assert found.targets["cpu-int8"].artifact == "export@cpu"


def test_the_fp32_artifact_is_the_cost_reference_itself(folder: Path) -> None:
    found = graph(folder, "targets: [cpu-fp32]\n")
    assert found.targets["cpu-fp32"].artifact == "export@reference"
    assert found.node("export@cpu-fp32").name == "export@reference"
    assert not any(name.startswith("quantize") for name in found.nodes)


def test_quantize_none_takes_quantization_out(folder: Path) -> None:
    found = graph(folder, "targets: [cpu]\nstages: {quantize: none}\n")
    assert found.targets["cpu"].artifact == "export@reference"
    assert "quantize@cpu" not in found.nodes


def test_a_recipe_quantizes_every_target_the_same_way(folder: Path) -> None:
    text = f"{TWO}stages: {{quantize: {{method: rtn, bits: 4, group_size: 64}}}}\n"
    found = graph(folder, text)
    node = found.nodes["quantize@a"]
    assert node.stage == "quantize.rtn"
    assert (node.params.bits, node.params.group_size) == (4, 64)  # type: ignore[attr-defined]
    assert node.origins["bits"] == "ingot.yaml:3"
    assert found.node("quantize@b") is node


def test_one_target_may_differ_from_the_recipe(folder: Path) -> None:
    text = "targets: {a: {profile: cpu}, b: {profile: cpu, quantize: {bits: 3}}}\n"
    text += "stages: {quantize: {method: rtn, bits: 4}}\n"
    found = graph(folder, text)
    assert (params(found, "quantize@a").bits, params(found, "quantize@b").bits) == (4, 3)


def test_a_profile_chooses_by_the_size_of_the_model_and_says_why(folder: Path) -> None:
    small, large = graph(folder), graph(folder, parameters=7_000_000_000)
    assert small.nodes["quantize@cpu"].stage == "quantize.dynamic"
    assert "fastest prefill" in small.nodes["quantize@cpu"].reason
    assert params(large, "quantize@cpu").bits == 4
    assert "waits for memory" in large.nodes["quantize@cpu"].reason


def test_a_profile_chooses_by_the_host(folder: Path) -> None:
    found = graph(folder, host=replace(HOST, isa=("avx2",)))
    assert (found.nodes["quantize@cpu"].stage, params(found, "quantize@cpu").bits) == ("quantize.rtn", 8)


def test_the_default_gates_follow_the_width_that_was_asked_for(folder: Path) -> None:
    def limits(text: str, **facts: object) -> dict[str, object]:
        gates = graph(folder, text, **facts).targets["cpu"].gates
        return {f"{gate.metric}.{gate.rule}": gate.limit for gate in gates}

    assert limits("") == {"perplexity.max_increase": "2%"}
    assert limits("stages: {quantize: {method: rtn, bits: 3}}\n") == {"perplexity.max_increase": "5%"}
    assert limits("stages: {quantize: none}\n")["perplexity.max_increase"] == "0.1%"
    assert limits("", task="encoder") == {"cosine.max_decrease": 0.02}


def test_a_recipes_gates_stand_beside_those_of_the_profile_or_replace_them(folder: Path) -> None:
    text = (
        "targets:\n  cpu:\n    gates: {size: {max: 60MB}}\n"
        "gates:\n  perplexity: {max_increase: 3%}\n  top1_agreement: {min: 90%}\n"
    )
    gates = {(g.metric, g.rule): (g.limit, g.origin) for g in graph(folder, text).targets["cpu"].gates}
    assert gates == {
        ("perplexity", "max_increase"): ("3%", "ingot.yaml:6"),
        ("top1_agreement", "min"): ("90%", "ingot.yaml:7"),
        ("size_bytes", "max"): ("60MB", "ingot.yaml:4"),
    }


def test_a_gate_of_none_is_no_gate(folder: Path) -> None:
    assert graph(folder, "gates: {perplexity: none}\n").targets["cpu"].gates == ()


def test_measures_and_texts_reach_their_stages(folder: Path) -> None:
    text = "data: {evaluation: held-out.txt}\nmeasure: {cost: {repeats: 9}, reference: {window: 64}}\n"
    found = graph(folder, text)
    assert params(found, "cost@cpu").repeats == 9
    assert params(found, "reference").window == 64
    assert Path(params(found, "reference").evaluation) == folder / "held-out.txt"
    assert found.nodes["reference"].origins["evaluation"] == "ingot.yaml:2"
    assert found.notes == ()


def test_the_bundled_evaluation_text_is_noted_when_it_is_used(folder: Path) -> None:
    found = graph(folder)
    assert Path(params(found, "reference").evaluation) == BUNDLED / "evaluation.jsonl"
    assert found.notes == ("the recipe names no evaluation text: the bundled one is used",)


def test_a_text_that_no_stage_reads_is_noted(folder: Path) -> None:
    (folder / "calibration.txt").write_text("something else")
    found = graph(folder, "data: {evaluation: held-out.txt, calibration: calibration.txt}\n")
    assert found.notes == ("data.calibration (ingot.yaml:2) is not read by any stage of this recipe",)


def test_a_target_that_measures_differently_has_a_reference_of_its_own(folder: Path) -> None:
    found = graph(
        folder, "targets: {a: {profile: cpu}, b: {profile: cpu, measure: {reference: {window: 64}}}}\n"
    )
    assert found.nodes["quality@a"].inputs["reference"] == "reference"
    assert found.nodes["quality@b"].inputs["reference"] == "reference/b"
    assert params(found, "reference/b").window == 64


def test_the_seed_reaches_every_node(folder: Path) -> None:
    assert {node.seed for node in graph(folder, "seed: 5\n").nodes.values()} == {5}


def test_the_limits_of_a_profile_reach_the_exporter(folder: Path) -> None:
    (folder / "old.yaml").write_text("summary: old\nextends: cpu\nlimits: {opset: [7, 22]}\n")
    found = graph(folder, "targets: [old.yaml]\n")
    node = found.nodes["export@old"]
    unmet = [each for each in base.get(node.stage).requires(node.params) if not each.met]  # type: ignore[misc]
    assert len(unmet) == 1
    assert "opset" in unmet[0].name


OPTIONS = {
    "recipe": "stages: {quantize: {method: rtn, bits: 8}}\n",
    "target": "targets: {cpu: {quantize: {method: rtn, bits: 4}}}\n",
    "environment": {"INGOT_SET__QUANTIZE__METHOD": "rtn", "INGOT_SET__QUANTIZE__BITS": "3"},
    "option": ("quantize.method=rtn", "quantize.bits=2"),
}
BITS = {"recipe": 8, "target": 4, "environment": 3, "option": 2}


@given(st.sets(st.sampled_from(sorted(OPTIONS)), min_size=1))
def test_the_strongest_layer_decides_the_parameter_of_the_node(
    tmp_path_factory: pytest.TempPathFactory, layers_used: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("layers")
    (folder / "ckpt").mkdir()
    text = "".join(str(OPTIONS[name]) for name in ("recipe", "target") if name in layers_used)
    environ = OPTIONS["environment"] if "environment" in layers_used else {}
    sets = OPTIONS["option"] if "option" in layers_used else ()
    found = graph(folder, text, *sets, environ=environ)  # type: ignore[arg-type]
    strongest = [name for name in BITS if name in layers_used][-1]
    assert params(found, "quantize@cpu").bits == BITS[strongest]


@pytest.mark.parametrize(
    ("text", "what", "where", "fix"),
    [
        ("stages:\n  quantize: {method: rnt}\n", "there is no 'rnt'", "ingot.yaml:3", "did you mean rtn?"),
        ("stages: {quantize: {method: rtn, bit: 4}}\n", "cpu.bit", "ingot.yaml:2", "did you mean bits?"),
        ("stages:\n  quantize: {method: rtn, bits: 5}\n", "5 is not one of 2, 3, 4, 8", "ingot.yaml:3", None),
        ("stages:\n  quantize: {method: rtn, bits: x}\n", "'x' is not a whole number", "ingot.yaml:3", None),
        ("stages:\n  quantize: {group_size: 64}\n", "cpu.group_size", "ingot.yaml:3", "has it: set"),
        ("stages:\n  quantize: {method: none, bits: 4}\n", "bits has no effect", "ingot.yaml:3", None),
        ("stages:\n  share: {method: layers}\n", "neither groups nor every is given", None, "every: 2"),
        ("stages:\n  prune: {method: wnda}\n", "there is no 'wnda'", "ingot.yaml:3", None),
        ("stages:\n  prune: {sparsity: 0.5}\n", "names no method", None, None),
        ("measure: {cost: {repeat: 4}}\n", "cost@cpu.repeat", "ingot.yaml:2", "did you mean repeats?"),
        ("measure: {reference: {evaluation: x.txt}}\n", "texts are named under data", "ingot.yaml:2", None),
        ("gates: {perplexty: {max: 2}}\n", "gates.perplexty", "ingot.yaml:2", "did you mean perplexity?"),
        ("gates: {perplexity: {max_rise: 2%}}\n", "gates.perplexity.max_rise", "ingot.yaml:2", None),
        ("gates: {perplexity: {max_increase: 2MB}}\n", "2MB", "ingot.yaml:2", None),
        ("gates: {cosine: {min: 0.9}}\n", "has no cosine", "ingot.yaml:2", None),
        (
            "targets: [cpu, cpu-int8]\nstages: {quantize: {method: rtn, bits: 4}}\n",
            "cpu-int8 does not take weights of int4", "ingot.yaml:3", "it takes int8",
        ),
        (
            "targets: [cpu-int4]\nstages: {quantize: dynamic}\n",
            "cpu-int4 does not take quantize.method dynamic", "ingot.yaml:3", "it takes rtn",
        ),
        ("targets: [cpu-int8]\nstages: {quantize: none}\n", "quantize.method none", "ingot.yaml:3", None),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_where_it_was_written(
    folder: Path, text: str, what: str, where: str | None, fix: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        graph(folder, text)
    assert what in caught.value.what
    if where is not None:
        assert caught.value.where == where
    if fix is not None:
        assert fix in str(caught.value.fix)


@pytest.mark.parametrize(
    ("option", "what", "fix"),
    [
        ("quantise.bits=4", "quantise is not a known name", "did you mean quantize?"),
        ("quantize@cpu-int4.bits=4", "no target 'cpu-int4'", None),
        ("quantize@cqu.bits=4", "no target 'cqu'", "did you mean cpu?"),
        ("load@cpu.model=x", "load is shared", "without @cpu"),
        ("load.model=x", "the model is named by model:", None),
        ("quantize.bits=4", "bits: 4 is not one of 8", None),
        ("export.opsett=22", "export@reference.opsett", "did you mean opset?"),
    ],
)
def test_an_option_that_fits_nowhere_is_refused_and_named(
    folder: Path, option: str, what: str, fix: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        graph(folder, "", option)
    assert what in caught.value.what
    assert caught.value.where == f"--set {option}"
    if fix is not None:
        assert fix in str(caught.value.fix)


@pytest.fixture
def prune(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers a stage `prune.toy` that maps a checkpoint to a checkpoint."""
    found = replace(base.get("quantize.dynamic"), name="prune.toy", output="checkpoint")
    monkeypatch.setitem(sys.modules, "toy_prune", SimpleNamespace(run=found))  # type: ignore[arg-type]
    monkeypatch.setitem(base.BUILTIN, "prune.toy", "toy_prune")  # type: ignore[arg-type]


@pytest.mark.usefixtures("prune")
def test_shared_stages_stand_between_the_source_and_every_target(folder: Path) -> None:
    found = graph(folder, "targets: [cpu-int8, cpu-fp32]\nstages: {prune: {method: toy}}\n")
    assert found.nodes["prune"].inputs == {"model": "load"}
    assert found.nodes["prune"].target is None
    assert found.nodes["quantize@cpu-int8"].inputs == {"model": "prune"}
    assert found.nodes["export@cpu-fp32"].inputs == {"model": "prune"}
    assert found.nodes["export@reference"].inputs == {"model": "load"}
    assert found.nodes["reference"].inputs == {"model": "load"}


@pytest.mark.usefixtures("prune")
def test_the_reference_may_be_a_shared_stage(folder: Path) -> None:
    found = graph(folder, "reference: prune\nstages: {prune: {method: toy}}\n", "prune.lm_head_bits=16")
    assert found.nodes["reference"].inputs == {"model": "prune"}
    assert found.nodes["export@reference"].inputs == {"model": "prune"}
    assert found.nodes["cost@cpu"].inputs["source"] == "load"
    assert params(found, "prune").lm_head_bits == 16


def node(name: str, stage: str, **inputs: str) -> Node:
    extra = (
        {"model": "m"} if stage == "load" else {"evaluation": "e"} if stage == "validate.reference" else {}
    )
    return Node(name, stage, base.get(stage).params(**extra), inputs)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (
            node("q", "quantize.rtn", model="r"),
            "takes checkpoint as 'model', but r (validate.reference) makes logits",
        ),
        (node("q", "quantize.rtn"), "needs the input 'model'"),
        (node("q", "quantize.rtn", modle="load"), "has no input 'modle'"),
        (node("q", "quantize.rtn", model="lod"), "which is not in the graph"),
        (node("load", "quantize.rtn", model="load"), "both called 'load'"),
    ],
)
def test_an_edge_that_does_not_fit_is_refused_when_the_graph_is_made(wrong: Node, what: str) -> None:
    builder = Builder()
    builder.add(node("load", "load"))
    builder.add(node("r", "validate.reference", model="load"))
    with pytest.raises(RecipeError) as caught:
        builder.add(wrong)
    assert what in caught.value.what


def test_an_unknown_node_is_refused_with_the_nearest_name(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no node 'quantise@cpu'") as caught:
        graph(folder).node("quantise@cpu")
    assert caught.value.fix == "did you mean quantize@cpu?"


def test_consumers_are_the_nodes_that_take_an_output(folder: Path) -> None:
    assert graph(folder).consumers("export@cpu") == ("quality@cpu", "cost@cpu")


def test_an_evaluation_text_with_fewer_bytes_than_a_window_has_tokens_is_refused(folder: Path) -> None:
    (folder / "held-out.txt").write_text("ten bytes.")
    text = "data: {evaluation: held-out.txt}\nmeasure: {reference: {window: 64}}\n"
    with pytest.raises(DataError, match=r"10 bytes, too few for one window of 64 tokens") as caught:
        graph(folder, text)
    assert caught.value.where == "ingot.yaml:2"
    with pytest.raises(DataError, match="one window of 32 tokens"):
        graph(folder, text, context=32)


PACKED = {"layout": "gptq", "weights": "int4"}


def test_a_quantized_source_is_exported_as_it_is_and_held_against_what_its_codes_stand_for(
    folder: Path,
) -> None:
    found = graph(folder, "targets: [cpu]\n", **PACKED)
    edges = {node.name: (node.stage, dict(node.inputs)) for node in found.nodes.values()}
    assert edges == {
        "load": ("load.quantized", {}),
        "dequantize@load": ("dequantize", {"model": "load"}),
        "export@reference": ("export.onnx", {"model": "dequantize@load"}),
        "reference": ("validate.reference", {"model": "dequantize@load"}),
        "export@cpu": ("export.onnx", {"model": "load"}),
        "quality@cpu": ("validate.quality", {"artifact": "export@cpu", "reference": "reference"}),
        "cost@cpu": (
            "validate.cost",
            {"artifact": "export@cpu", "reference": "export@reference", "source": "load"},
        ),
    }
    (rule,) = found.targets["cpu"].gates
    assert (rule.metric, rule.limit) == ("perplexity", "5%")


def test_a_quantized_source_may_be_quantized_anew_from_what_its_codes_stand_for(folder: Path) -> None:
    text = "stages: {dequantize: {}}\ntargets: {cpu: {quantize: {method: rtn, bits: 8}}}\n"
    found = graph(folder, text, **PACKED)
    assert found.node("quantize@cpu").inputs == {"model": "dequantize"}
    assert found.node("reference").inputs == {"model": "dequantize"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets: {cpu: {quantize: {bits: 8}}}\n", "quantize.bits has no effect: cpu takes load"),
        ("stages: {quantize: {bits: 8}}\ntargets: [cpu]\n", "quantize.bits has no effect"),
        ("targets: [cpu-int8]\n", "does not take weights of int4"),
    ],
)
def test_what_a_quantized_source_cannot_become_is_refused(text: str, message: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        graph(folder, text, **PACKED)


def test_a_profile_of_one_method_takes_what_another_program_made_of_that_width(folder: Path) -> None:
    assert graph(folder, "targets: [cpu-int4]\n", **PACKED).targets["cpu-int4"].artifact


def test_a_quantized_reference_is_what_its_codes_stand_for(folder: Path) -> None:
    text = "stages: {q8: {stage: quantize.rtn, params: {bits: 8}}}\nreference: q8\ntargets: [cpu]\n"
    found = graph(folder, text)
    assert found.node("reference").inputs == {"model": "dequantize@q8"}
    assert found.node("dequantize@q8").inputs == {"model": "q8"}


def test_another_source_may_be_quantized_where_its_stage_says_so(folder: Path) -> None:
    text = "stages: {other: {stage: load.quantized, params: {model: ckpt}}}\ntargets: {cpu: {from: other}}\n"
    recipe = read_recipe(parse_yaml(f"model: ckpt\n{text}", "ingot.yaml"), folder, ())
    found = build_graph(recipe, FACTS, HOST, {"other": {**FACTS, **PACKED}})
    assert found.node("export@cpu").inputs == {"model": "other"}
    (rule,) = found.targets["cpu"].gates
    assert rule.limit == "5%"


@pytest.mark.usefixtures("prune")
def test_the_default_gates_know_a_changed_network_from_one_that_computes_the_same(folder: Path) -> None:
    def metrics(text: str) -> set[str]:
        found = graph(folder, f"targets: [cpu-fp32]\n{text}")
        return {rule.metric for rule in found.targets["cpu-fp32"].gates}

    assert "parity_max_error" in metrics("")
    assert "parity_max_error" in metrics("stages: {fuse: {method: rotate}}\n")
    assert "parity_max_error" in metrics("reference: prune\nstages: {prune: {method: toy}}\n")
    assert "parity_max_error" not in metrics("stages: {prune: {method: toy}}\n")
    assert "parity_max_error" not in metrics(
        "stages: {prune: {method: toy}, fuse: {method: rotate}}\nreference: load\n"
    )
