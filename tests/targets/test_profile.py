"""Target profiles: what is built in, how files extend one another, and how rules choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import RecipeError, RequirementError
from ingot.targets import profile
from ingot.targets.rules import Rule, holds

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {
    "task": "causal-lm", "architecture": "LlamaForCausalLM", "model_type": "llama",
    "parameters": 60_000_000, "int8_dot_product": True, "known_family": True,
}  # fmt: skip


def chosen(name: str, facts: dict[str, object]) -> dict[tuple[str, ...], object]:
    """What a profile chooses, later rules over earlier ones."""
    return {s.path: s.value for rule in profile.get(name).chosen(facts) for s in rule.settings}


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_the_built_in_profiles_are_those_of_the_design() -> None:
    status = {name: profile.get(name).status for name in profile.names()}
    assert status == {
        "cpu": "built", "cpu-int8": "built", "cpu-int4": "built", "cpu-fp32": "built",
        "nvidia": "built", "nvidia-sm80": "built", "nvidia-sm89": "built", "nvidia-sm90": "built",
        "nvidia-sm120": "built", "nvidia-aoti": "built", "adapter": "built",
        "arm-mobile": "built", "arm-mobile-a53": "built", "arm-mobile-a76": "built",
    }  # fmt: skip


def test_every_profile_says_in_one_line_what_it_is() -> None:
    assert all(profile.get(name).summary for name in profile.names())


def test_a_planned_target_is_refused_as_not_built_yet(tmp_path: Path) -> None:
    path = tmp_path / "watch.yaml"
    path.write_text("summary: a watch\nstatus: planned\nruntime: onnx\n")
    with pytest.raises(RequirementError, match="not built yet") as caught:
        profile.get(str(path)).require_built("ingot.yaml:2")
    assert caught.value.where == "ingot.yaml:2"
    assert "cpu-int8" in str(caught.value.fix)


def test_an_unknown_target_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="no target 'cpu-int9'") as caught:
        profile.get("cpu-int9", "ingot.yaml:3")
    assert caught.value.fix == "did you mean cpu-int8?"
    assert caught.value.where == "ingot.yaml:3"


def test_cpu_takes_dynamic_int8_where_bytes_are_multiplied_and_summed_at_once() -> None:
    assert chosen("cpu", SMALL)["quantize", "method"] == "dynamic"


def test_cpu_takes_weight_only_int8_without_an_integer_dot_product() -> None:
    found = chosen("cpu", {**SMALL, "int8_dot_product": False})
    assert (found["quantize", "method"], found["quantize", "bits"]) == ("rtn", 8)


def test_cpu_takes_int4_for_large_decoders_only() -> None:
    assert chosen("cpu", {**SMALL, "parameters": 7_000_000_000})["quantize", "bits"] == 4
    encoder = {**SMALL, "task": "encoder", "parameters": 7_000_000_000}
    assert chosen("cpu", encoder)["quantize", "method"] == "dynamic"


@pytest.mark.parametrize("facts", [SMALL, {**SMALL, "int8_dot_product": False, "parameters": 10**11}])
def test_the_variants_do_not_depend_on_model_or_host(facts: dict[str, object]) -> None:
    assert chosen("cpu-int8", facts)["quantize", "method"] == "dynamic"
    assert chosen("cpu-fp32", facts)["quantize", "method"] == "none"
    int4 = chosen("cpu-int4", facts)
    assert {path[1]: value for path, value in int4.items() if path[0] == "quantize"} == {
        "method": "rtn", "bits": 4, "group_size": 32, "sym": True, "scale_search": "mse",
        "embedding_bits": 8, "lm_head_bits": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "limit"), [("fp32", "0.1%"), ("int8", "2%"), ("int4", "5%"), ("int2", "5%")]
)
def test_the_default_perplexity_gate_follows_the_width_of_the_weights(weights: str, limit: str) -> None:
    rules = profile.get("cpu").default_gates({**SMALL, "weights": weights, "changed": False})
    gates = {setting.path: setting.value for rule in rules for setting in rule.settings}
    assert gates["gates", "perplexity", "max_increase"] == limit


@pytest.mark.parametrize("task", ["causal-lm", "encoder"])
def test_a_changed_network_is_not_expected_to_give_the_same_numbers(task: str) -> None:
    def metrics(*, changed: bool) -> set[str]:
        facts = {**SMALL, "task": task, "weights": "fp32", "changed": changed}
        rules = profile.get("cpu").default_gates(facts)
        return {setting.path[1] for rule in rules for setting in rule.settings}

    assert metrics(changed=False) - metrics(changed=True) == {"parity_max_error"}
    assert metrics(changed=True)


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
def test_encoders_are_gated_on_cosine_and_not_on_perplexity(weights: str) -> None:
    rules = profile.get("cpu").default_gates(
        {**SMALL, "task": "encoder", "weights": weights, "changed": False}
    )
    metrics = {setting.path[1] for rule in rules for setting in rule.settings}
    assert "cosine" in metrics
    assert "perplexity" not in metrics


def test_every_rule_of_a_built_in_profile_gives_its_reason() -> None:
    for name in profile.names():
        for rule in (*profile.get(name).choices, *profile.get(name).gates):
            assert rule.because or not rule.when


def test_a_profile_of_ones_own_changes_what_it_says_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path, "edge",
        "summary: the box in the shop\nextends: cpu-int8\nstages: {quantize: {lm_head_bits: 16}}\n"
        "measure: {cost: {repeats: 3}}\nlimits: {ir_version: [8, 9]}\n",
    )  # fmt: skip
    found = profile.get(path)
    assert (found.name, found.runtime, found.status) == ("edge", "onnx", "built")
    assert found.accepts == profile.get("cpu-int8").accepts
    assert found.limits.ir_version == (8, 9)
    assert found.limits.opset == profile.get("cpu").limits.opset
    values = chosen(path, SMALL)
    assert values["quantize", "method"] == "dynamic"
    assert values["quantize", "lm_head_bits"] == 16
    assert values["cost", "repeats"] == 3


def test_a_profile_may_extend_another_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "base", "summary: b\nextends: cpu-int4\nstages: {quantize: {group_size: 64}}\n")
    path = write(tmp_path, "top", "summary: t\nextends: base.yaml\n")
    assert chosen(path, SMALL)["quantize", "group_size"] == 64


def test_a_files_plain_settings_come_after_the_rules_of_what_it_extends(tmp_path: Path) -> None:
    path = write(tmp_path, "own", "summary: o\nextends: cpu\nstages: {quantize: {method: dynamic}}\n")
    assert chosen(path, {**SMALL, "parameters": 10**11})["quantize", "method"] == "dynamic"


@pytest.mark.parametrize(
    ("text", "line", "what", "fix"),
    [
        ("summary: s\nruntime: onnx\nstage: {}\n", 3, "stage is not a known name", "did you mean stages?"),
        ("summary: s\nruntime: onnx\nstatus: buillt\n", 3, "'buillt' is not one of", "did you mean built?"),
        ("runtime: onnx\n", None, "summary is missing", None),
        ("summary: s\n", None, "runtime is missing", None),
        ("summary: s\nextends: cqu\n", 2, "no target 'cqu'", "did you mean cpu?"),
        ("summary: s\nextends: self.yaml\n", 2, "extends itself", None),
        (
            "summary: s\nextends: cpu\nstages:\n  quantise: {bits: 4}\n",
            4, "quantise is not a known name", "did you mean quantize?",
        ),
        ("summary: s\nextends: cpu\nstages:\n  quantize: rtn\n", 4, "'rtn' is not a mapping", None),
        ("summary: s\nextends: cpu\nlimits: {opsett: []}\n", 3, "limits.opsett", "did you mean opset?"),
        ("summary: s\nextends: cpu\nlimits: {opset: new}\n", 3, "limits.opset: 'new' is not", None),
        ("summary: s\nextends: cpu\nrules:\n- {set: {}, because: x}\n", 4, "rules[0].when is missing", None),
        (
            "summary: s\nextends: cpu\nrules:\n- when: {parameter_above: 1}\n  set: {}\n  because: x\n",
            4, "when.parameter_above is not", "did you mean parameters_above?",
        ),
        (
            "summary: s\nextends: cpu\nrules:\n- {when: {weights: int8}, set: {}, because: x}\n",
            4, "when.weights is not", None,
        ),
        (
            "summary: s\nextends: cpu\nrules:\n- {when: {parameters_above: lots}, set: {}, because: x}\n",
            4, "when.parameters_above: 'lots' is not a number", None,
        ),
        ("- a\n", None, "a profile is a mapping", None),
    ],
)  # fmt: skip
def test_a_faulty_profile_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int | None, what: str, fix: str | None
) -> None:
    path = write(tmp_path, "self", text)
    with pytest.raises(RecipeError) as caught:
        profile.get(path)
    assert what in caught.value.what
    assert path in str(caught.value.where)
    if line is not None:
        assert f"self.yaml:{line}" in str(caught.value.where)
    if fix is not None:
        assert caught.value.fix == fix


def test_profiles_of_other_packages_are_found_by_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(
        "from pathlib import Path\nEDGE = Path(__file__).with_name('edge.yaml')\n"
    )
    write(tmp_path, "edge", "summary: from a package\nextends: cpu-int8\n")
    info = tmp_path / "shop-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ingot.targets]\nedge = shop:EDGE\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert profile.get("edge").summary == "from a package"
    assert "edge" in profile.names()


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({}, True),
        ({"task": "causal-lm"}, True),
        ({"task": "encoder"}, False),
        ({"task": ["encoder", "causal-lm"]}, True),
        ({"parameters_above": 60_000_000}, False),
        ({"parameters_above": 59_999_999}, True),
        ({"parameters_below": 60_000_001, "int8_dot_product": True}, True),
        ({"parameters_below": 60_000_001, "int8_dot_product": False}, False),
    ],
)
def test_a_rule_holds_when_all_its_conditions_do(when: dict[str, object], expected: bool) -> None:
    assert holds(Rule(when, ()), SMALL) is expected


def test_a_profile_says_what_its_device_holds_and_where_artifacts_run(tmp_path: Path) -> None:
    path = write(
        tmp_path, "gpu",
        "summary: g\nextends: cpu\naccepts: {weights: [fp16, fp8]}\n"
        "limits: {sm: 89, device_memory: 24GB, dtypes: [float16, fp8], runtimes: {tensorrt: '>=10'}}\n"
        "verify: {batch: [1, 8], sequence: [128], places: {onnx: [host, device], aoti: [device]}}\n"
        "delivers: {packed: checkpoint}\n",
    )  # fmt: skip
    found = profile.get(path)
    assert (found.limits.sm, found.limits.device_memory, found.limits.opset) == (89, "24GB", (7, 24))
    assert found.verify.places_of("aoti") == ("device",)
    assert found.verify.places_of("executorch") == ("host",)
    assert chosen(path, SMALL)["delivers", "packed"] == "checkpoint"
    child = profile.get(write(tmp_path, "child", "summary: c\nextends: gpu.yaml\nverify: {batch: [2]}\n"))
    assert (child.verify.batch, child.verify.sequence) == ((2,), (128,))


def test_a_place_that_is_none_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "p", "summary: p\nextends: cpu\nverify: {places: {onnx: [hosts]}}\n")
    with pytest.raises(RecipeError, match=r"verify\.places\.hosts is not a known name") as caught:
        profile.get(path)
    assert caught.value.fix == "did you mean host?"


def test_a_rule_may_add_an_artifact_where_a_library_builds_it(tmp_path: Path) -> None:
    path = write(
        tmp_path, "p",
        "summary: p\nextends: cpu\nrules:\n"
        "  - {when: {tensorrt: [tensorrt, tensorrt_rtx]}, set: {delivers: {engine: tensorrt}}, because: b}\n",
    )  # fmt: skip
    assert ("delivers", "engine") not in chosen(path, {**SMALL, "tensorrt": "none"})
    assert chosen(path, {**SMALL, "tensorrt": "tensorrt_rtx"})["delivers", "engine"] == "tensorrt"
