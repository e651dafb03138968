"""Graphs for TensorRT: half precision against PyTorch's own, the codes that arrive, rules and profiles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from ingot.artifacts.errors import InputError
from ingot.stages.export.onnx.narrow import narrowed
from ingot.stages.export.onnx.nvidia import NvidiaParams, accepts, needed
from ingot.stages.export.onnx.tensorrt_rules import Subject, lint
from ingot.stages.model.families import architecture
from ingot.stages.model.quantized import QuantizedCheckpoint, WeightFormat, WeightSpec

from .conftest import quantize
from .oracle import OnnxModel, TorchModel, cases, largest_difference
from .rounded import InputsOf

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "export.onnx_nvidia"
CAUSAL = ["llama", "llama-tied", "qwen2", "qwen3", "gpt2", "gemma", "gemma2", "phi3", "gpt_neox"]
# What half precision may cost, over what it costs PyTorch.
LARGEST = 2


def graph_of(directory: Path) -> onnx.ModelProto:
    return onnx.load(directory / "model.onnx")


def describe(directory: Path) -> Any:
    return architecture(json.loads((directory / "config.json").read_text()), "config.json")


@pytest.mark.parametrize("family", CAUSAL)
def test_half_precision_computes_what_pytorch_does_and_breaks_no_rule(
    family: str, tiny_checkpoint: Any, export: Any
) -> None:
    directory = tiny_checkpoint(family)
    exported = export(directory, stage=STAGE, sm=75)
    found, reference = OnnxModel(exported.directory), TorchModel(directory, "AutoModelForCausalLM")
    half = TorchModel(directory, "AutoModelForCausalLM", "float16")
    for name, case in cases(describe(directory).vocabulary).items():
        theirs = largest_difference(half, reference, case)
        assert 0 < largest_difference(found, reference, case) < LARGEST * theirs, name
    check_sound(exported.directory)
    widths = exported.result.facts["weights_by_width"]
    # Of Gemma's norms, 1 is added to the weight before it is narrowed.
    assert widths["float16"]["tensors"] >= sum(each["tensors"] for each in widths.values()) / 2
    assert widths.keys() == {"float16", *(["float32"] if family.startswith("gemma") else [])}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_encoder_gives_its_states_in_float32(family: str, tiny_checkpoint: Any, export: Any) -> None:
    directory = tiny_checkpoint(family)
    exported = export(directory, stage=STAGE, sm=75)
    session = OnnxModel(exported.directory)
    ids = np.random.default_rng(0).integers(5, describe(directory).vocabulary, (2, 24))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    names = {value.name for value in session.session.get_inputs()}
    feeds = {name: value for name, value in feeds.items() if name in names}
    wanted = TorchModel(directory, "AutoModel").hidden(feeds)
    theirs = np.abs(TorchModel(directory, "AutoModel", "float16").hidden(feeds) - wanted).max()
    found, _ = session(feeds)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < LARGEST * theirs
    check_sound(exported.directory)


def check_sound(directory: Path) -> None:
    """ONNX's checker and TensorRT's rules have nothing to say, and every product is of half precision."""
    made = graph_of(directory)
    onnx.checker.check_model(made, full_check=True)
    assert lint(Subject.of_model(made), 75) == []
    assert {each.domain for each in made.opset_import} == {""}
    types = Subject.of_model(made).types
    halves = [node for node in made.graph.node if node.op_type in ("MatMul", "Gemm", "Attention")]
    assert halves
    assert {types[node.input[0]] for node in halves} == {onnx.TensorProto.FLOAT16}


WIDTHS: dict[str, tuple[dict[str, Any], int]] = {
    "int8 and int8 activations": ({"bits": 8, "activation": "dynamic"}, onnx.TensorProto.INT8),
    "int8 a row": ({"bits": 8}, onnx.TensorProto.INT8),
    "int4 in groups": ({"bits": 4, "group_size": 32}, onnx.TensorProto.INT4),
    "int4 a row": ({"bits": 4}, onnx.TensorProto.INT4),
}


@pytest.mark.parametrize("width", WIDTHS)
def test_codes_arrive_as_they_are_and_zero_points_are_zero(
    width: str, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    form, element = WIDTHS[width]
    directory = tiny_checkpoint("llama")
    names = {linear.name: form for linear in describe(directory).linears}
    restored = quantize(directory, tmp_path / "q", names)
    exported = export(tmp_path / "q", "quantized-checkpoint", STAGE, sm=80)
    made = graph_of(exported.directory)
    check_symmetric(made, element)
    name = next(iter(names))
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    codes = tensors[f"{name}.codes"].astype(np.float32)
    scales = tensors[f"{name}.scales"].astype(np.float32)
    wide = np.repeat(scales, form["group_size"], 0) if form.get("group_size") else scales
    # Scales are rounded to float16, by 2^-11 at most.
    np.testing.assert_allclose((codes * wide).T, restored[name], rtol=2**-10.9)


def check_symmetric(made: onnx.ModelProto, element: int) -> None:
    zeros = [each for each in made.graph.initializer if each.name.endswith(".zeros")]
    assert zeros
    assert all(each.data_type == element and not any(each.raw_data) for each in zeros)


def test_fp8_weights_and_inputs_are_e4m3_on_a_scale_a_row(
    tiny_checkpoint: Any, export: Any, make_from: Any
) -> None:
    made = make_from("llama", "quantize.fp8")
    exported = export(made.artifact.path, "quantized-checkpoint", STAGE, sm=89)
    graph = graph_of(exported.directory).graph
    kept = QuantizedCheckpoint.open(made.artifact.path)
    name = next(iter(kept.quantized))
    tensors = {each.name: each for each in graph.initializer}
    codes = np.frombuffer(tensors[f"{name}.codes"].raw_data, np.uint8).reshape(tensors[f"{name}.codes"].dims)
    assert tensors[f"{name}.codes"].data_type == onnx.TensorProto.FLOAT8E4M3FN
    np.testing.assert_array_equal(codes.T, kept.weight(name).codes)
    rounding = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounding
    assert all(tensors[node.input[2]].data_type == onnx.TensorProto.FLOAT8E4M3FN for node in rounding)
    # On a processor, against PyTorch whose weights are what the codes stand for, and which rounds inputs too.
    ids = np.random.default_rng(1).integers(5, 200, (1, 24))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(24)[None]}
    found, _ = OnnxModel(exported.directory)(feeds)
    torch_model = TorchModel(made.directory, "AutoModelForCausalLM")
    plain = torch_model(feeds)[0]
    state = dict(torch_model.model.named_parameters())
    for each in kept.quantized:
        state[each].data = torch.from_numpy(kept.weight(each).dequantize())
    with InputsOf(
        torch_model.model, lambda each, rows: in_fp8(rows) if named(each) in kept.quantized else rows
    ):
        simulated = torch_model(feeds)[0]
    assert np.abs(found - simulated).mean() < 0.6 * np.abs(found - plain).mean()


def named(weight: str) -> str:
    return weight.partition("[")[0]


def in_fp8(rows: torch.Tensor) -> torch.Tensor:
    """Every row on a scale by which its largest magnitude is 448, through PyTorch's own E4M3."""
    scale = rows.abs().amax(-1, keepdim=True) / 448
    return (rows / scale).to(torch.float8_e4m3fn).float() * scale


def test_what_a_gpu_does_not_compute_is_refused_with_the_rule(export: Any, make_from: Any) -> None:
    made = make_from("llama", "quantize.fp8")
    with pytest.raises(InputError, match=r"rule \[type\.fp8\]") as caught:
        export(made.artifact.path, "quantized-checkpoint", STAGE, sm=80)
    assert "SM 89" in str(caught.value.fix)


def spec(bits: int = 8, numeric: str = "int", *, sym: bool = True) -> WeightSpec:
    return WeightSpec(WeightFormat(bits, 32, sym, numeric=numeric), (64, 64))


@pytest.mark.parametrize(
    ("found", "sm", "rule"),
    [
        (spec(4), 75, "type.int4"), (spec(3), 75, "type.int4"), (spec(8, "fp8_e4m3"), 80, "type.fp8"),
        (spec(4, "nf4"), 120, "type.nf4"), (spec(4, sym=False), 120, "quantize.zero_point"),
        (spec(4), 80, None), (spec(8), 75, None), (spec(8, "fp8_e4m3"), 89, None),
    ],
)  # fmt: skip
def test_weights_are_held_to_the_rules_from_their_headers(
    found: WeightSpec, sm: int, rule: str | None, tiny_checkpoint: Any
) -> None:
    model = describe(tiny_checkpoint("llama"))
    if rule is None:
        accepts(NvidiaParams(sm=sm), {"w": found}, model)
        return
    with pytest.raises(InputError, match=f"w: rule {rule}: "):
        accepts(NvidiaParams(sm=sm), {"w": found}, model)


def test_a_mixture_of_experts_needs_an_operator_that_tensorrt_lacks(tiny_checkpoint: Any) -> None:
    model = describe(tiny_checkpoint("mixtral"))
    with pytest.raises(InputError, match=r"rule operator\.missing: TensorRT has no NonZero") as caught:
        accepts(NvidiaParams(), {}, model)
    assert "checkpoint" in str(caught.value.fix)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bert", "qwen3"])
def test_what_a_network_needs_is_known_before_its_graph_is_written(
    family: str, tiny_checkpoint: Any, export: Any
) -> None:
    directory = tiny_checkpoint(family)
    operators = {node.op_type for node in graph_of(export(directory, stage=STAGE).directory).graph.node}
    wanted = needed(describe(directory))
    assert wanted <= operators
    # Of those that other runtimes lack most, none is in the graph without being told.
    told = {"Attention", "RotaryEmbedding", "RMSNormalization", "LayerNormalization", "Gelu", "Tanh", "Sin"}
    assert operators & told <= wanted
    with pytest.raises(InputError, match=r"rule operator\.missing: .* needs Attention|needs Softmax"):
        accepts(NvidiaParams(lacks=("Attention", "Softmax")), {}, describe(directory))


def test_an_operator_that_the_profile_says_is_missing_is_refused(tiny_checkpoint: Any, export: Any) -> None:
    with pytest.raises(InputError, match="the target's runtime lacks RMSNormalization"):
        export(tiny_checkpoint("llama"), stage=STAGE, lacks=["RMSNormalization"])


def test_bfloat16_is_written_and_not_loaded_here(tiny_checkpoint: Any, export: Any) -> None:
    directory = tiny_checkpoint("llama", "bfloat16")
    exported = export(directory, stage=STAGE, dtype="bfloat16")
    made = graph_of(exported.directory)
    onnx.checker.check_model(made, full_check=True)
    name = "model.layers.0.mlp.up_proj.weight"
    kept = next(each for each in made.graph.initializer if each.name == name)
    assert kept.data_type == onnx.TensorProto.BFLOAT16
    from safetensors.torch import load_file

    wanted = load_file(directory / "model.safetensors")[name].view(torch.uint8).numpy().tobytes()
    assert kept.raw_data == wanted


def test_profiles_are_one_of_a_prompt_and_one_of_a_token_behind_a_cache(
    tiny_checkpoint: Any, export: Any
) -> None:
    exported = export(tiny_checkpoint("llama"), stage=STAGE, batch=[2, 4], sequence=[16, 4096])
    document = json.loads((exported.directory / "optimization_profiles.json").read_text())
    prefill, decode = document["graphs"]["model.onnx"]
    assert (prefill["name"], decode["name"]) == ("prefill", "decode")
    # The tiny model's context is 128.
    assert prefill["inputs"]["input_ids"] == {"min": [1, 1], "opt": [2, 16], "max": [4, 128]}
    assert decode["inputs"]["input_ids"] == {"min": [1, 1], "opt": [2, 1], "max": [4, 1]}
    assert decode["inputs"]["attention_mask"] == {"min": [1, 2], "opt": [2, 17], "max": [4, 128]}
    cache = decode["inputs"]["past_key_values.0.key"]
    assert cache == {"min": [1, 2, 1, 16], "opt": [2, 2, 16, 16], "max": [4, 2, 127, 16]}
    about = json.loads((exported.directory / "ingot.json").read_text())
    assert about["profiles"] == "optimization_profiles.json"


@pytest.mark.parametrize("sizes", [{"batch": []}, {"sequence": [0]}])
def test_sizes_that_are_none_are_refused(sizes: Any, tiny_checkpoint: Any, export: Any) -> None:
    with pytest.raises(InputError, match="sizes of at least 1"):
        export(tiny_checkpoint("llama"), stage=STAGE, **sizes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_are_narrowed_as_pytorch_narrows_them(dtype: str) -> None:
    values = np.random.default_rng(0).normal(0, 3, 4096).astype(np.float32)
    values[:4] = [1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-12, -(1 + 2**-8)]  # ties, and what rounds away
    wanted = torch.from_numpy(values).to(getattr(torch, dtype)).view(torch.int16).numpy()
    np.testing.assert_array_equal(narrowed(values, dtype, "w").view(np.int16), wanted)


def test_a_weight_that_float16_cannot_hold_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match="w holds 70000, and float16 ends at 65504") as caught:
        narrowed(np.array([1, 70000], np.float32), "float16", "w")
    assert caught.value.fix == "set export.dtype: bfloat16"
    assert np.isinf(narrowed(np.array([np.inf], np.float32), "float16", "w"))
