"""What a target ships beside its own artifact: leaves that share its weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import RecipeError, RequirementError
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline import assemble
from ingot.pipeline.assemble import build_graph
from ingot.pipeline.recipe import read_recipe
from ingot.stages import base
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


PACKED = "targets: {nvidia-sm89: {quantize: %s, export: {method: checkpoint, layout: %s}}}\n"


@pytest.mark.parametrize(
    ("quantize", "layout"),
    [
        ("{method: fp8}", "compressed-tensors"),
        ("{method: gptq, bits: 4, embedding_bits: 16}", "gptq"),
        ("{method: nf4}", "bitsandbytes"),
    ],
)
def test_a_checkpoint_for_gpu_programs_is_a_target_that_nothing_here_runs(
    folder: Path, quantize: str, layout: str
) -> None:
    data = "data: {calibration: held-out.txt}\n" if "gptq" in quantize else ""
    (folder / "other.txt").write_text("another text, " * 400)
    data = data.replace("held-out", "other")
    found = graph(folder, data + PACKED % (quantize, layout))
    assert set(found.targets) == {"nvidia-sm89"}
    assert found.node("export@nvidia-sm89").params.layout == layout
    for name in ("quality@nvidia-sm89", "cost@nvidia-sm89"):
        node = found.node(name)
        unmet = [each for each in base.get(node.stage).requires(node.params) if not each.met]
        assert [each.is_device for each in unmet] == [True]
        assert "vLLM" in unmet[0].fix
    # Nothing is compared with it, so the unmodified model is not packed for nothing.
    assert "export@reference" not in found.nodes


def test_fp8_on_ampere_is_refused_with_the_rule_and_int4_before_it(folder: Path) -> None:
    with pytest.raises(RequirementError, match=r"rule sm\.fp8: fp8 needs compute capability 8\.9"):
        graph(folder, "targets: {nvidia-sm80: {quantize: fp8}}\n")
    (folder / "turing.yaml").write_text("summary: t\nextends: nvidia\nlimits: {sm: 75}\n")
    text = (
        "targets: {turing.yaml: {quantize: {method: rtn, bits: 4, embedding_bits: 16, lm_head_bits: 16}}}\n"
    )
    with pytest.raises(RequirementError, match=r"rule sm\.int4: int4 needs compute capability 8\.0"):
        graph(folder, text)


def test_a_graph_in_bfloat16_is_measured_on_the_device_alone(folder: Path) -> None:
    found = graph(folder, "targets: {nvidia: {export: {method: onnx_nvidia, dtype: bfloat16}}}\n")
    assert found.node("quality@nvidia").params.device == "cuda"
    half = graph(folder, "targets: {nvidia: {export: {method: onnx_nvidia}}}\n")
    assert half.node("quality@nvidia").params.device == "cpu"
    assert half.node("cost@nvidia").params.device == "cuda"


@pytest.mark.parametrize(
    ("library", "engines"),
    [
        ("none", set()),
        ("tensorrt_rtx", {"nvidia-sm89-engine"}),
        ("tensorrt", {"nvidia-sm89-engine", "nvidia-sm90-engine"}),
    ],
)
def test_engines_are_delivered_where_a_library_builds_them(
    folder: Path, library: str, engines: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "tensorrt_library", lambda: library)
    found = graph(folder, "targets: [nvidia-sm89, nvidia-sm90]\n")
    assert set(found.targets) == {"nvidia-sm89", "nvidia-sm90", "nvidia-sm90-aoti", *engines}
    if library != "none":
        engine = found.node("export@nvidia-sm89-engine")
        own = found.node("export@nvidia-sm89").name
        assert engine.inputs == {"model": own}
        assert engine.params.sm == 89
        assert "a library that builds engines is installed here" in engine.reason


def test_one_recipe_for_three_kinds_of_devices_builds_what_they_share_once(folder: Path) -> None:
    (folder / "soon.yaml").write_text("summary: a phone\nextends: cpu-int4\n")
    found = graph(
        folder,
        "stages: {prune: {method: magnitude, sparsity: 0.2}}\ntargets: [cpu, nvidia, soon.yaml]\n",
    )
    stages = [node.stage for node in found.nodes.values()]
    assert stages.count("prune.magnitude") == stages.count("load") == stages.count("validate.reference") == 1
    assert {"cpu", "nvidia", "soon"} <= set(found.targets)


def test_the_plan_names_what_opens_each_artifact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "tensorrt_library", lambda: "tensorrt_rtx")
    data = "data: {calibration: other.txt}\n"
    (folder / "other.txt").write_text("another text, " * 400)
    found = graph(folder, f"{data}targets: [arm-mobile, nvidia-sm89, nvidia-sm90, cpu-int4]\n")
    said = {name: found.node(leaf.artifact).reason for name, leaf in found.targets.items()}
    through = {name: re.split("[:;]", reason.partition("through ")[2])[0] for name, reason in said.items()}
    assert through == {
        "arm-mobile": "executorch", "arm-mobile-onnx": "onnx", "nvidia-sm89": "tensorrt",
        "nvidia-sm89-engine": "tensorrt", "nvidia-sm90": "tensorrt", "nvidia-sm90-aoti": "aoti",
        "cpu-int4": "onnx",
    }  # fmt: skip
