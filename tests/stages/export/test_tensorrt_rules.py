"""TensorRT's rules, each against graphs that break it and that do not, and against the builder itself."""

from __future__ import annotations

import importlib.util
from typing import Any

import onnx
import pytest
from ingot.stages.export.onnx.tensorrt_rules import RULES, Subject, lint, lint_profiles
from onnx import TensorProto, helper

HALF = TensorProto.FLOAT16
SIZE = 64


def value(name: str, dtype: int = HALF, shape: tuple[int, ...] = (SIZE, SIZE)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def tensor(name: str, dtype: int, shape: tuple[int, ...] = (), fill: float = 0) -> onnx.TensorProto:
    count = 1
    for size in shape:
        count *= size
    return helper.make_tensor(name, dtype, shape, [fill] * count)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    tensors: tuple[onnx.TensorProto, ...] = (),
) -> onnx.ModelProto:
    for index, node in enumerate(nodes):
        node.name = f"{node.op_type}{index}"
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(tensors))
    domains = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=11)


def quantized(dtype: int, zero: int, name: str = "z") -> onnx.ModelProto:
    """x through QuantizeLinear and back, times a weight."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", name], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", name], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    inputs = [value("x"), *([value(name, dtype, ())] if name != "z" else [])]
    tensors = (tensor("s", HALF, (), 0.5), tensor("z", dtype, (), zero), tensor("w", HALF, (SIZE, SIZE), 1))
    return model(nodes, inputs, [value("y")], tensors)


def four_bits() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["c", "s"], ["w"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    tensors = (tensor("c", TensorProto.INT4, (SIZE, SIZE), 1), tensor("s", HALF, (2, SIZE), 0.5))
    return model(nodes, [value("x")], [value("y")], tensors)


def product(left: int = HALF, right: int = HALF) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([node], [value("x", left)], [value("y", left)], (tensor("w", right, (SIZE, SIZE), 1),))


def attention(dtype: int, outputs: int) -> onnx.ModelProto:
    names = ["y", "k", "v"][:outputs]
    shape = (1, 2, 8, SIZE)
    cache = ["pk", "pv"] if outputs == 3 else []
    node = helper.make_node("Attention", ["a", "b", "c", *(["", *cache] if cache else [])], names)
    made = [value(name, dtype, shape if name == "y" else (1, 2, 16, SIZE)) for name in names]
    return model([node], [value(name, dtype, shape) for name in ("a", "b", "c", *cache)], made)


def routed() -> onnx.ModelProto:
    node = helper.make_node("NonZero", ["x"], ["y"])
    dims = helper.make_tensor_value_info("y", TensorProto.INT64, (2, None))
    return model([node], [value("x")], [dims])


def foreign() -> onnx.ModelProto:
    """As onnxruntime multiplies by 4-bit codes."""
    node = helper.make_node(
        "MatMulNBits", ["x", "c", "s"], ["y"], domain="com.microsoft", K=SIZE, N=SIZE, bits=4, block_size=32
    )
    tensors = (tensor("c", TensorProto.UINT8, (SIZE, 2, 16), 1), tensor("s", HALF, (SIZE * 2,), 0.5))
    return model([node], [value("x")], [value("y")], tensors)


# Rule → a graph that breaks it, the compute capability it is compiled for, and what the message names.
BROKEN: dict[str, tuple[onnx.ModelProto, int, str]] = {
    "operator.domain": (foreign(), 89, "com.microsoft"),
    "operator.missing": (routed(), 89, "NonZero"),
    "quantize.zero_point": (quantized(TensorProto.INT8, 3), 89, "zero point z is not 0"),
    "quantize.constant": (quantized(TensorProto.INT8, 0, "given"), 89, "the zero point given is computed"),
    "attention.outputs": (attention(HALF, 3), 89, "3 outputs"),
    "attention.float32": (attention(TensorProto.FLOAT, 1), 89, "float32"),
    "type.mixed": (product(TensorProto.FLOAT, HALF), 89, "float32 and float16"),
    "type.fp8": (quantized(TensorProto.FLOAT8E4M3FN, 0), 80, "fp8"),
    "type.int4": (four_bits(), 75, "int4"),
    "type.bfloat16": (product(TensorProto.BFLOAT16, TensorProto.BFLOAT16), 75, "bfloat16"),
    "type.float32_product": (product(TensorProto.FLOAT, TensorProto.FLOAT), 75, "MatMul in float32"),
}
SOUND: dict[str, tuple[onnx.ModelProto, int]] = {
    "a product in float16": (product(), 75),
    "a product in float32": (product(TensorProto.FLOAT, TensorProto.FLOAT), 80),
    "int8 about 0": (quantized(TensorProto.INT8, 0), 75),
    "fp8 from Ada on": (quantized(TensorProto.FLOAT8E4M3FN, 0), 89),
    "int4 from Ampere on": (four_bits(), 80),
    "bfloat16 from Ampere on": (product(TensorProto.BFLOAT16, TensorProto.BFLOAT16), 80),
    "attention with one output": (attention(HALF, 1), 89),
}


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert set(BROKEN) == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_finds_what_breaks_it_and_says_how_to_fix_it(rule: str) -> None:
    broken, sm, words = BROKEN[rule]
    findings = lint(Subject.of_model(broken), sm)
    assert {each.rule for each in findings} == {rule}
    assert words in findings[0].what
    assert findings[0].node
    stated = next(each for each in RULES if each.name == rule)
    assert findings[0].fix == stated.fix
    assert stated.says


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_graph_breaks_no_rule(name: str) -> None:
    sound, sm = SOUND[name]
    assert lint(Subject.of_model(sound), sm) == []


@pytest.mark.parametrize("rule", ["type.fp8", "type.int4", "type.bfloat16", "type.float32_product"])
def test_rules_of_older_devices_hold_there_alone(rule: str) -> None:
    broken, _, _ = BROKEN[rule]
    assert lint(Subject.of_model(broken), 120) == []
    assert lint(Subject.of_model(broken), None) == []


def test_a_rule_looks_into_branches() -> None:
    inner = helper.make_node("NonZero", ["x"], ["n"], name="inner")
    branch = helper.make_graph([inner], "b", [], [value("n", TensorProto.INT64, (2, SIZE))])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    dims = helper.make_tensor_value_info("y", TensorProto.INT64, (2, None))
    found = lint(Subject.of_model(model([node], [value("c", TensorProto.BOOL, ()), value("x")], [dims])), 89)
    assert [(each.rule, each.node) for each in found] == [("operator.missing", "inner")] * 2


def shapes(least: int, tuned: int, most: int) -> dict[str, Any]:
    sizes = {"min": [least, 8], "opt": [tuned, 8], "max": [most, 8]}
    return {"name": "p", "inputs": {"x": sizes}}


@pytest.mark.parametrize(
    ("profile", "rule"),
    [
        (shapes(1, 2, 4), None),
        (shapes(2, 1, 4), "profile.order"),
        (shapes(1, 8, 4), "profile.order"),
        ({"name": "p", "inputs": {}}, "profile.missing"),
    ],
)
def test_profiles_cover_what_varies_in_order(profile: dict[str, Any], rule: str | None) -> None:
    dims = helper.make_tensor_value_info("x", HALF, ("batch", 8))
    structure = helper.make_graph([], "g", [dims], [])
    assert [each.rule for each in lint_profiles(structure, [profile])] == ([rule] if rule else [])
    assert lint_profiles(structure, [profile], given=["x"]) == []


def built(made: onnx.ModelProto, sm: int) -> bool:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if not trt.OnnxParser(network, logger).parse(made.SerializeToString()):
        return False
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    return builder.build_serialized_network(network, config) is not None


HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


@pytest.mark.device
@pytest.mark.skipif(not HAS_RTX, reason="needs pip install 'ingot[nvidia]'")
@pytest.mark.parametrize("rule", BROKEN)
def test_the_builder_refuses_what_a_rule_refuses(rule: str) -> None:
    broken, sm, _ = BROKEN[rule]
    assert not built(broken, sm)


@pytest.mark.device
@pytest.mark.skipif(not HAS_RTX, reason="needs pip install 'ingot[nvidia]'")
@pytest.mark.parametrize("name", SOUND)
def test_the_builder_takes_what_no_rule_refuses(name: str) -> None:
    sound, sm = SOUND[name]
    assert built(sound, sm)
