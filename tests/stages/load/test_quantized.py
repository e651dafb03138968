"""`load.quantized`: what it makes of checkpoints of other programs, and what it refuses, with the reason."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.load.packed import inspect_packed, is_packed
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[dict[str, Any]], object]

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def packed(tiny_checkpoint: Any, run_stage: Any, tmp_path: Path) -> Callable[..., Path]:
    """A factory: ``(layout, family="llama", **params of quantize.rtn) -> a directory of one's own``."""

    def make(layout: str = "gptq", family: str = "llama", **params: Any) -> Path:
        settings = {"bits": 4, "group_size": 32, "embedding_bits": 16, "lm_head_bits": 16, **params}
        source = run_stage("quantize.rtn", {"model": tiny_checkpoint(family, "bfloat16")}, **settings)
        written = run_stage("export.checkpoint", {"model": source}, layout=layout)
        own = tmp_path / "model"
        shutil.copytree(written.path, own)
        for path in (own, *own.iterdir()):
            path.chmod(0o755)
        return own

    return make


def edit(directory: Path, change: Change, config: Change | None = None) -> Path:
    """Changes the tensors and the `quantization_config` of a directory in place."""
    # Float tensors in bfloat16 are widened by hand: numpy has no such type.
    tensors = Checkpoint.open(directory).tensors
    stored = {
        name: tensors.float32(name) if tensors.info(name).dtype == "BF16" else np.array(tensors.array(name))
        for name in tensors.names()
    }
    tensors.close()
    change(stored)
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    if config is not None:
        value = json.loads((directory / "config.json").read_text())
        config(value["quantization_config"])
        (directory / "config.json").write_text(json.dumps(value))
    return directory


def nothing(_: dict[str, Any]) -> None:
    pass


def load(run_stage: Any, directory: Path) -> QuantizedCheckpoint:
    return QuantizedCheckpoint.open(run_stage("load.quantized", {}, model=str(directory)).path)


def refusal(run_stage: Any, directory: Path) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        run_stage("load.quantized", {}, model=str(directory))
    assert caught.value.exit_code == 2
    assert str(directory) in (caught.value.where or "")
    return caught.value


def test_headers_alone_say_what_it_is(packed: Any, tiny_checkpoint: Any) -> None:
    directory = packed()
    assert is_packed(directory)
    assert not is_packed(tiny_checkpoint("llama"))
    facts = inspect_packed(directory)
    assert (facts.layout, facts.weights, facts.dtype) == ("gptq", "int4", "bfloat16")
    assert facts.task == "causal-lm"
    plain = Checkpoint.open(tiny_checkpoint("llama")).tensors
    assert facts.parameters == sum(plain.info(name).count for name in plain.names())
    assert facts.weight_bytes == (directory / "model.safetensors").stat().st_size


def test_facts_count_what_is_packed_and_what_is_not(packed: Any, run_stage: Any) -> None:
    facts = run_stage("load.quantized", {}, model=str(packed("compressed-tensors"))).facts
    widths = facts["weights_by_width"]
    assert set(widths) == {"int4", "bf16"}
    assert widths["int4"]["tensors"] == 14
    assert sum(width["parameters"] for width in widths.values()) == facts["parameters"]
    assert facts["bits_per_weight"] == 5.0  # 4 and a float32 for every 32


def test_a_module_of_another_width_is_read_by_its_rule(packed: Any, run_stage: Any) -> None:
    directory = packed(overrides={"*.1.mlp.down_proj.weight": {"bits": 8, "group_size": 16}})
    found = load(run_stage, directory)
    widths = {name: spec.format.bits for name, spec in found.quantized.items()}
    assert widths["model.layers.1.mlp.down_proj.weight"] == 8
    assert set(widths.values()) == {4, 8}


@pytest.mark.parametrize("layout", ["gptq", "awq", "compressed-tensors"])
def test_a_checkpoint_without_some_of_its_tensors_is_refused(
    layout: str, packed: Any, run_stage: Any
) -> None:
    scales = "weight_scale" if layout == "compressed-tensors" else "scales"
    directory = edit(packed(layout), lambda tensors: tensors.pop(f"{UP}.{scales}"))
    assert f"{UP} lacks its {scales}" in refusal(run_stage, directory).what


def test_scales_that_are_not_finite_are_refused(packed: Any, run_stage: Any) -> None:
    directory = edit(packed(), lambda tensors: tensors[f"{UP}.scales"].fill(np.inf))
    assert "infinite scales" in refusal(run_stage, directory).what


def test_weights_in_floating_point_that_are_not_finite_are_refused(packed: Any, run_stage: Any) -> None:
    directory = edit(packed(), lambda tensors: tensors["model.norm.weight"].fill(np.nan))
    assert "model.norm.weight holds" in refusal(run_stage, directory).what


def test_act_order_without_static_groups_is_refused_with_the_reason(packed: Any, run_stage: Any) -> None:
    def reorder(tensors: dict[str, Any]) -> None:
        tensors[f"{UP}.g_idx"] = tensors[f"{UP}.g_idx"][::-1].copy()

    found = refusal(run_stage, edit(packed(), reorder))
    assert "not consecutive input features" in found.what
    assert "static_groups" in (found.fix or "")


def test_groups_in_order_are_read_whatever_desc_act_says(packed: Any, run_stage: Any) -> None:
    directory = edit(packed(), nothing, lambda config: config.update(desc_act=True))
    assert load(run_stage, directory).quantized


def test_a_checkpoint_without_group_indices_is_in_order(packed: Any, run_stage: Any) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.endswith("g_idx")]:
            del tensors[name]

    assert load(run_stage, edit(packed(), drop)).quantized


def test_version_one_counts_zero_points_from_one(packed: Any, run_stage: Any) -> None:
    # 0x77777777: a stored 7 in every nibble is the zero point 8, which is symmetric.
    directory = packed()
    stored = Checkpoint.open(directory).tensors.array(f"{UP}.qzeros")
    assert set(stored.view(np.uint32).reshape(-1).tolist()) == {0x77777777}
    assert load(run_stage, directory).quantized[f"{UP}.weight"].format.sym


def test_a_zero_point_that_programs_read_differently_is_refused(packed: Any, run_stage: Any) -> None:
    directory = edit(packed(), lambda tensors: tensors[f"{UP}.qzeros"].fill(-1))
    found = refusal(run_stage, directory)
    assert "16 to some programs and of 0 to others" in found.what
    version_two = edit(directory, nothing, lambda config: config.update(checkpoint_format="gptq_v2"))
    weight = load(run_stage, version_two).weight(f"{UP}.weight")
    assert set(weight.zeros.reshape(-1).tolist()) == {15}


def test_symmetry_is_what_the_zero_points_say_not_the_config(packed: Any, run_stage: Any) -> None:
    directory = edit(packed(sym=False), nothing, lambda config: config.update(sym=True))
    found = load(run_stage, directory)
    assert not any(spec.format.sym for spec in found.quantized.values())


def test_a_tensor_of_another_shape_is_refused(packed: Any, run_stage: Any) -> None:
    def cut(tensors: dict[str, Any]) -> None:
        tensors[f"{UP}.qweight"] = tensors[f"{UP}.qweight"][:-1].copy()

    assert f"{UP}.qweight is I32 [7, 160], not I32 [8, 160]" in refusal(run_stage, edit(packed(), cut)).what


def test_a_packed_weight_that_is_no_linear_map_is_refused(packed: Any, run_stage: Any) -> None:
    def add(tensors: dict[str, Any]) -> None:
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"model.norm.{part}"] = tensors[f"{UP}.{part}"]

    assert (
        "model.norm.weight is packed, but it is not a linear map"
        in refusal(run_stage, edit(packed(), add)).what
    )


def test_a_config_without_packed_weights_is_refused(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    own = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")
    value = json.loads((own / "config.json").read_text())
    value["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (own / "config.json").write_text(json.dumps(value))
    assert "no weight is packed" in refusal(run_stage, own).what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(quant_method="quip"), r"layout that is not read"),
        (lambda config: config.update(checkpoint_format="marlin"), "'marlin' are not read"),
        (lambda config: config.update(bits=5), "bits 5 is not one of"),
        (lambda config: config.update(group_size=0), "group_size 0 is no size"),
        (lambda config: config.update(dynamic={"+:(a+)+$": {"bits": 8}}), "repeats without end"),
        (lambda config: config.update(dynamic={"+:(": {"bits": 8}}), "is none"),
        (lambda config: config.update(dynamic={"+:x": 8}), "has no settings"),
        (lambda config: config.update(dynamic={"-:.*up_proj": {}}), "says that it is not quantized"),
    ],
)
def test_a_gptq_config_that_is_not_read_is_refused(
    change: Any, message: str, packed: Any, run_stage: Any
) -> None:
    directory = edit(packed(), nothing, change)
    with pytest.raises(IntakeError, match=message) as caught:
        run_stage("load.quantized", {}, model=str(directory))
    assert str(directory) in (caught.value.where or "")


def group(config: dict[str, Any]) -> dict[str, Any]:
    return config["config_groups"]["group_0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(config_groups={}), "no config_groups"),
        (lambda config: config.update(kv_cache_scheme={"num_bits": 8}), "a quantized cache"),
        (lambda config: config.update(sparsity_config={"format": "sparse-24-bitmask"}), "sparse weights"),
        (lambda config: group(config).update(format="marlin-24"), "'marlin-24' are not read"),
        (
            lambda config: group(config).update(targets=["re:.*down_proj"]),
            "no group of config_groups targets",
        ),
        (lambda config: group(config).update(targets="Linear"), "not a list of names"),
        (lambda config: group(config).update(output_activations={"num_bits": 8}), "quantized outputs"),
        (lambda config: group(config)["weights"].update(num_bits=6), "6-bit int weights by group"),
        (lambda config: group(config)["weights"].update(strategy="token"), "by token are not read"),
        (lambda config: group(config).update(input_activations={"num_bits": 4}), "4-bit"),
        (
            lambda config: group(config).update(
                input_activations={"num_bits": 8, "strategy": "channel", "dynamic": False}
            ),
            "static int inputs by channel",
        ),
    ],
)
def test_a_compressed_tensors_config_that_is_not_read_is_refused(
    change: Any, message: str, packed: Any, run_stage: Any
) -> None:
    directory = edit(packed("compressed-tensors"), nothing, change)
    with pytest.raises(IntakeError, match=message) as caught:
        run_stage("load.quantized", {}, model=str(directory))
    assert str(directory) in (caught.value.where or "")


def test_patterns_and_names_go_before_classes(packed: Any, run_stage: Any) -> None:
    def split(config: dict[str, Any]) -> None:
        config["config_groups"] = {
            "all": {**group(config), "targets": ["Linear"]},
            "some": {**group(config), "targets": ["re:.*\\.layers\\.0\\.mlp\\..*"]},
            "one": {**group(config), "targets": [UP]},
        }
        config["config_groups"]["some"]["input_activations"] = {"num_bits": 8, "dynamic": True}

    found = load(run_stage, edit(packed("compressed-tensors"), nothing, split))
    schemes = {name: spec.format.activation for name, spec in found.quantized.items()}
    assert schemes[f"{UP}.weight"] == "none"
    assert schemes["model.layers.0.mlp.down_proj.weight"] == "dynamic"
    assert schemes["model.layers.1.mlp.down_proj.weight"] == "none"


def test_three_bits_of_whole_codes_a_word_are_read_too(packed: Any, run_stage: Any) -> None:
    """As releases before the stream of bits packed them: ten codes of three bits, two bits left."""
    directory = packed("compressed-tensors", bits=3)
    expected = load(run_stage, directory)

    def pad(tensors: dict[str, Any]) -> None:
        for name, spec in expected.quantized.items():
            codes = expected.weight(name).codes
            words = np.zeros((spec.shape[0], -(-spec.shape[1] // 10)), np.uint32)
            for column in range(spec.shape[1]):
                words[:, column // 10] |= codes[:, column].astype(np.uint32) << np.uint32(3 * (column % 10))
            tensors[name.replace(".weight", ".weight_packed")] = words.view(np.int32)

    found = load(run_stage, edit(directory, pad))
    for name in expected.quantized:
        assert np.array_equal(found.weight(name).codes, expected.weight(name).codes)


def test_blocks_and_tensors_share_scales_that_are_repeated(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    source = run_stage("quantize.fp8", {"model": tiny_checkpoint("llama")}, activation="none", scale="tensor")
    written = run_stage("export.checkpoint", {"model": source})
    own = shutil.copytree(written.path, tmp_path / "model")
    for path in (own, *own.iterdir()):
        path.chmod(0o755)
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    tensors = load_torch(own / "model.safetensors")
    for name in [name for name in tensors if name.endswith("weight_scale")]:
        tensors[name] = tensors[name][:1].reshape(1).clone()
    blocks = torch.arange(1, 11, dtype=torch.float32).reshape(5, 2)
    tensors[f"{UP}.weight_scale"] = blocks
    save_torch(tensors, own / "model.safetensors", {"format": "pt"})
    value = json.loads((own / "config.json").read_text())
    groups = value["quantization_config"]["config_groups"]
    groups["group_0"]["weights"]["strategy"] = "tensor"
    weights = {**groups["group_0"]["weights"], "strategy": "block", "block_structure": [32, 32]}
    groups["group_1"] = {**groups["group_0"], "targets": [UP], "weights": weights}
    (own / "config.json").write_text(json.dumps(value))
    found, expected = load(run_stage, own), QuantizedCheckpoint.open(source.path)
    for name in expected.quantized:
        if name != f"{UP}.weight":
            assert np.array_equal(found.weight(name).dequantize(), expected.weight(name).dequantize())
    scales = np.repeat(blocks.numpy(), 32, axis=0)
    assert np.array_equal(found.weight(f"{UP}.weight").scales, scales)
    assert found.quantized[f"{UP}.weight"].format.group_size == 32


def test_nan_among_fp8_codes_is_refused(tiny_checkpoint: Any, run_stage: Any, tmp_path: Path) -> None:
    source = run_stage("quantize.fp8", {"model": tiny_checkpoint("llama")})
    written = run_stage("export.checkpoint", {"model": source})
    own = shutil.copytree(written.path, tmp_path / "model")
    for path in (own, *own.iterdir()):
        path.chmod(0o755)
    info = Checkpoint.open(own).tensors.info(f"{UP}.weight")
    data = bytearray((own / "model.safetensors").read_bytes())
    data[info.start] = 0x7F
    (own / "model.safetensors").write_bytes(data)
    assert f"{UP}.weight holds NaN" in refusal(run_stage, own).what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bnb_4bit_quant_type": "fp4"}, "the type fp4 are not read"),
        ({"load_in_4bit": False, "load_in_8bit": True}, "LLM.int8"),
    ],
)
def test_a_bitsandbytes_config_that_is_not_read_is_refused(
    change: Any, message: str, tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    source = run_stage("quantize.nf4", {"model": tiny_checkpoint("llama")}, ignore=["*.down_proj.weight"])
    written = run_stage("export.checkpoint", {"model": source}, layout="bitsandbytes")
    own = shutil.copytree(written.path, tmp_path / "model")
    for path in (own, *own.iterdir()):
        path.chmod(0o755)
    assert load(run_stage, own).quantized
    value = json.loads((own / "config.json").read_text())
    value["quantization_config"].update(change)
    (own / "config.json").write_text(json.dumps(value))
    assert message in refusal(run_stage, own).what
