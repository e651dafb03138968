"""What a target ships beside its own artifact: leaves that share its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import RecipeError, RequirementError
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline.assemble import build_graph
from ingot.pipeline.recipe import read_recipe
from ingot.targets.host import Host

if TYPE_CHECKING:
    from pathlib import Path

    from ingot.pipeline.graph import Graph

HOST = Host("linux", "x86_64", "a processor", ("avx2", "avx512_vnni"), 8, 64 << 30)
FACTS = {
    "task": "causal-lm", "architecture": "LlamaForCausalLM", "model_type": "llama",
    "parameters": 60_000_000, "weight_bytes": 120_000_000, "context": 2048,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "held-out.txt").write_text("something that is held out, " * 16)
    return tmp_path


def graph(folder: Path, text: str, profile: str = "", **facts: object) -> Graph:
    if profile:
        (folder / "box.yaml").write_text(f"summary: a box\nextends: cpu-int4\n{profile}")
    recipe = read_recipe(parse_yaml(f"model: ckpt\n{text}", "ingot.yaml"), folder, ())
    return build_graph(recipe, {**FACTS, **facts}, HOST)


def test_an_artifact_beside_a_targets_own_is_a_leaf_of_the_same_weights(folder: Path) -> None:
    found = graph(folder, "targets: {cpu-int4: {delivers: {wide: {method: onnx, quant_format: qdq}}}}\n")
    assert set(found.targets) == {"cpu-int4", "cpu-int4-wide"}
    own, other = (found.node(f"export@{name}") for name in ("cpu-int4", "cpu-int4-wide"))
    assert own.inputs == other.inputs == {"model": "quantize@cpu-int4"}
    assert (own.params.quant_format, other.params.quant_format) == ("qoperator", "qdq")
    assert found.targets["cpu-int4-wide"].gates == found.targets["cpu-int4"].gates


def test_a_profile_delivers_more_than_one_artifact_and_a_recipe_takes_one_away(folder: Path) -> None:
    profile = "delivers: {wide: {method: onnx, quant_format: qdq}}\n"
    assert set(graph(folder, "targets: [box.yaml]\n", profile).targets) == {"box", "box-wide"}
    text = "targets: {box.yaml: {delivers: {wide: none}}}\n"
    assert set(graph(folder, text, profile).targets) == {"box"}
    named = "targets: {box.yaml: {export: {method: onnx}}}\n"
    assert set(graph(folder, named, profile).targets) == {"box"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets: {cpu: {delivers: {Wide: onnx}}}\n", "'Wide' cannot name an artifact"),
        ("targets: {cpu: {delivers: {int4: onnx}}, cpu-int4: }\n", "'int4' cannot name an artifact"),
        ("targets: {cpu: {delivers: {wide: {opset: 23}}}}\n", "names no method of export"),
    ],
)
def test_what_names_no_artifact_is_refused_with_its_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        graph(folder, text)
    assert caught.value.where == "ingot.yaml:2"


@pytest.mark.parametrize(
    ("limits", "facts", "rule"),
    [
        ("{sm: 75}", {}, "sm.int4"),
        ("{dtypes: [float16]}", {}, "dtype.int4"),
        ("{device_memory: 1MB}", {}, "memory.device"),
        ("{artifact_size: 20MB}", {}, "size.artifact"),
    ],
)
def test_what_a_device_cannot_do_is_refused_with_the_rule(
    folder: Path, limits: str, facts: dict[str, object], rule: str
) -> None:
    with pytest.raises(RequirementError, match=f"the target box breaks the rule {rule}: ") as caught:
        graph(folder, "targets: [box.yaml]\n", f"limits: {limits}\n", **facts)
    assert caught.value.fix


def test_sequences_beyond_the_models_context_are_refused_while_planning(folder: Path) -> None:
    with pytest.raises(RequirementError, match=r"rule verify.sequence: sequences of 4096 tokens"):
        graph(folder, "targets: [box.yaml]\n", "verify: {sequence: [4096]}\n")


def test_a_size_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"limits.device_memory: '24 apples'"):
        graph(folder, "targets: [box.yaml]\n", "limits: {device_memory: 24 apples}\n")


def test_versions_of_every_runtime_of_the_device_are_asked_for(folder: Path) -> None:
    found = graph(folder, "targets: [box.yaml]\n", "limits: {runtimes: {tensorrt-rtx: '>=1.7'}}\n")
    assert found.targets["box"].requires == {"onnxruntime": ">=1.26,<1.32", "tensorrt-rtx": ">=1.7"}
