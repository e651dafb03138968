"""Weights by role and layer, and what stages cost: on real quantized checkpoints, against their tensors."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import CorruptError
from ingot.artifacts.manifest import Action
from ingot.pipeline.graph import Graph, Leaf, Node
from ingot.pipeline.outcome import Ending, NodeResult, Outcome
from ingot.pipeline.report import blame, weights
from ingot.pipeline.report.blame import chain, with_steps
from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from ingot.artifacts.manifest import Artifact
    from ingot.pipeline.report.model import TargetReport

    Make = Callable[..., Artifact]


def result(node: str, artifact: Artifact, tensors: object = None) -> NodeResult:
    observed = {} if tensors is None else {"stage": {"tensors": tensors}}
    action = Action("a" * 64, node, {}, artifact.digest, observed)
    return NodeResult(node, Ending.BUILT, "", "a" * 64, artifact, action)


@pytest.fixture
def lineage(run_stage: Make, tiny_checkpoint: Callable[..., Path]) -> Callable[..., list[NodeResult]]:
    """A family loaded and, where bits are given, quantized: ``(family, bits=0, tensors=None)``."""

    def make(family: str, bits: int = 0, tensors: object = None) -> list[NodeResult]:
        loaded = run_stage("load", {}, model=str(tiny_checkpoint(family)))
        found = [result("load", loaded)]
        if bits:
            found.append(result("q", run_stage("quantize.rtn", {"model": loaded}, bits=bits), tensors))
        return found

    return make


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "bert", "mixtral", "t5"])
def test_groups_hold_every_parameter_of_the_checkpoint_once(
    lineage: Callable[..., list[NodeResult]], tiny_checkpoint: Callable[..., Path], family: str
) -> None:
    found = lineage(family)
    groups = weights.weight_groups(found)
    assert sum(group.parameters for group in groups) == found[0].artifact.facts["parameters"]
    assert {group.width for group in groups} == {"float32"}
    assert sum(group.size_bytes for group in groups) == 4 * sum(group.parameters for group in groups)
    outside = [group.layer is None for group in groups]
    assert outside == sorted(outside)


def test_bytes_of_quantized_weights_are_codes_at_their_width_and_float32_scales(
    lineage: Callable[..., list[NodeResult]],
) -> None:
    groups = {(group.role, group.layer): group for group in weights.weight_groups(lineage("llama", bits=4))}
    query = groups["q_proj", 0]
    # 64 · 64 codes of half a byte, and a scale of 4 bytes for each 32 of them.
    assert (query.width, query.parameters, query.size_bytes) == ("int4", 4096, 4096 // 2 + 4096 // 32 * 4)
    assert groups["embedding", None].width == "int8"
    assert query.error is None


def test_a_group_has_the_largest_error_of_its_tensors_and_the_worst_come_first(
    lineage: Callable[..., list[NodeResult]],
) -> None:
    names = [f"model.layers.{layer}.self_attn.{role}_proj.weight" for layer in (0, 1) for role in "qkvo"]
    names += [
        f"model.layers.{layer}.mlp.{role}_proj.weight" for layer in (0, 1) for role in ("gate", "up", "down")
    ]
    errors = {name: {"relative_error": 0.01 * (place + 1)} for place, name in enumerate(names)}
    errors[names[0]] = {"relative_error": math.nan}
    found = lineage("llama", bits=4, tensors={**errors, "gone.weight": {"relative_error": 9.0}, "odd": 3})
    groups = {(group.role, group.layer): group for group in weights.weight_groups(found)}
    assert groups["q_proj", 0].error is None
    assert groups["k_proj", 0].error == pytest.approx(0.02)
    worst = weights.worst_tensors(found)
    assert [tensor.name for tensor in worst] == names[:-11:-1]
    assert len(worst) == weights.WORST


def test_experts_of_a_layer_are_one_group(lineage: Callable[..., list[NodeResult]]) -> None:
    groups = [group for group in weights.weight_groups(lineage("mixtral")) if group.layer == 0]
    assert max(group.tensors for group in groups) == 4


def test_halves_of_a_pair_are_told_apart(lineage: Callable[..., list[NodeResult]]) -> None:
    roles = {group.role for group in weights.weight_groups(lineage("t5")) if group.layer is not None}
    assert {"encoder q", "decoder q", "decoder cross_q"} <= roles


def test_packed_bytes_count_what_was_not_quantized_as_float32(
    lineage: Callable[..., list[NodeResult]],
) -> None:
    found = lineage("llama", bits=4)
    artifact = found[1].artifact
    parameters = int(str(artifact.facts["parameters"]))
    expected = 0.0
    with safe_open(artifact.path / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            count = math.prod(file.get_slice(name).get_shape())
            if name.endswith(".codes"):
                bits = 8 if "embed" in name or "lm_head" in name else 4
                expected += count * bits / 8
            elif not name.endswith(".zeros"):
                expected += 4 * count
    assert weights.packed_bytes(artifact.path, parameters) == round(expected)


def test_a_record_that_is_none_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "quantization.json").write_text('{"weights": {"w": {}}}')
    with pytest.raises(CorruptError, match="not a quantization record"):
        weights.packed_bytes(tmp_path, 1)


def graph(*targets: str, shared: bool = False) -> Graph:
    """Targets quantized but for `plain`, after a shared stage if there is one."""
    nodes = {
        "load": Node("load", "load", None, {}),
        "reference": Node("reference", "r", None, {"model": "load"}),
    }
    last = "load"
    if shared:
        nodes["prune"], last = Node("prune", "prune.x", None, {"model": "load"}), "prune"
    for name in targets:
        model = last
        if name != "plain":
            model = f"quantize@{name}"
            nodes[model] = Node(model, "quantize.rtn", None, {"model": last})
        nodes[f"export@{name}"] = Node(f"export@{name}", "export.onnx", None, {"model": model})
        inputs = {"artifact": f"export@{name}", "reference": "reference"}
        nodes[f"quality@{name}"] = Node(f"quality@{name}", "q", None, inputs)
    leaves = {n: Leaf(n, n, f"export@{n}", f"quality@{n}", f"quality@{n}") for n in targets}
    return Graph(nodes, leaves, facts={})


def reports(samples: ModuleType, **changes: float) -> dict[str, TargetReport]:
    return {name: samples.target(name, change=change) for name, change in changes.items()}


def nothing(found: Graph) -> Outcome:
    return Outcome("r", {name: NodeResult(name, Ending.FAILED, "") for name in found.nodes}, 0.0)


def test_a_chain_goes_from_the_source_to_the_artifact() -> None:
    assert chain(graph("a", shared=True), "export@a") == ["load", "prune", "quantize@a", "export@a"]


def test_another_target_that_delivers_a_stage_as_it_is_measures_it(samples: ModuleType) -> None:
    found = graph("cpu", "plain", shared=True)
    targets = with_steps(found, nothing(found), reports(samples, cpu=0.03, plain=0.01))
    steps = {step.node: step for step in targets["cpu"].steps}
    delta = {name: target.metrics["perplexity"].delta for name, target in targets.items()}
    assert (steps["load"].delta, steps["load"].measured_by) == (0.0, "")
    assert (steps["prune"].delta, steps["prune"].measured_by) == (delta["plain"], "plain")
    assert steps["quantize@cpu"].delta is None
    assert (steps["export@cpu"].delta, steps["export@cpu"].measured_by) == (delta["cpu"], "cpu")


def test_alone_a_target_is_measured_end_to_end(samples: ModuleType) -> None:
    found = graph("cpu", shared=True)
    targets = with_steps(found, nothing(found), reports(samples, cpu=0.03))
    measured = [step.delta is not None for step in targets["cpu"].steps]
    assert measured == [True, False, False, True]
    assert all(step.size_bytes is None for step in targets["cpu"].steps)


@pytest.mark.parametrize(("stated", "size"), [({"model_files": ["model.onnx"]}, 7), ({}, 12)])
def test_of_a_model_in_several_formats_the_files_count_that_its_size_is_measured_by(
    stated: dict[str, object], size: int
) -> None:
    files = [
        SimpleNamespace(path=path, size=n) for path, n in (("model.onnx", 7), ("model.ort", 5), ("x", 9))
    ]
    artifact = SimpleNamespace(kind="onnx", facts=stated, record=SimpleNamespace(files=files))
    assert blame._bytes(artifact) == size


def test_a_layer_has_the_mean_output_error_of_its_weights_beside_that_of_plain_rounding(
    lineage: Callable[..., list[NodeResult]],
) -> None:
    name = "model.layers.{}.self_attn.{}_proj.weight".format
    entries = {
        name(0, "q"): {"weighted_error": 0.1, "rtn_weighted_error": 0.2},
        name(0, "k"): {"weighted_error": 0.3, "rtn_weighted_error": 0.6},
        name(1, "q"): {"weighted_error": 0.5, "rtn_weighted_error": 0.5},
        # Rounded beside the walk, so nobody saw its inputs.
        name(1, "k"): {"relative_error": 0.5},
    }
    found = weights.layer_errors(lineage("llama", bits=4, tensors=entries))
    assert [error.layer for error in found] == ["0", "1"]
    assert [error.error for error in found] == pytest.approx([0.2, 0.5])
    assert [error.nearest for error in found] == pytest.approx([0.4, 0.5])
    assert weights.layer_errors(lineage("llama", bits=4)) == ()


def test_layers_of_both_halves_of_an_encoder_decoder_are_told_apart(
    lineage: Callable[..., list[NodeResult]],
) -> None:
    entries = {
        f"{side}.block.0.layer.0.SelfAttention.q.weight": {"weighted_error": 0.1, "rtn_weighted_error": 0.2}
        for side in ("encoder", "decoder")
    }
    found = weights.layer_errors(lineage("t5", bits=4, tensors=entries))
    assert [error.layer for error in found] == ["encoder 0", "decoder 0"]
