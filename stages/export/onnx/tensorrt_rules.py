"""TensorRT's rules, held against an ONNX graph before anything is compiled: each says what and how to fix it.

What is refused was found with the builder of TensorRT-RTX 1.7 and its parser, which stop at one node with
messages of their own; `tests/stages/export/test_tensorrt_rules.py` holds every rule against that builder
where it is installed. Compute capabilities are those of `targets/demands.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto

from ....targets.demands import LOWEST_SM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .graph import Graph, Initializer

# What the parser knows no layer for.
MISSING = frozenset({
    "BitShift", "Bernoulli", "Compress", "ConvInteger", "Det", "DynamicQuantizeLinear", "MatMulInteger",
    "Multinomial", "NegativeLogLikelihoodLoss", "NonZero", "Optional", "QLinearConv", "QLinearMatMul",
    "StringNormalizer", "TfIdfVectorizer", "Unique",
})  # fmt: skip
QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
MULTIPLYING = ("MatMul", "Gemm")
# Operators whose operands must be of one type, and which of their inputs those are.
ALIKE = {
    "Add": (0, 1), "Sub": (0, 1), "Mul": (0, 1), "Div": (0, 1), "Pow": (0, 1), "Max": (0, 1), "Min": (0, 1),
    "MatMul": (0, 1), "Gemm": (0, 1), "Where": (1, 2), "Concat": (0, 1),
}  # fmt: skip
NAMES = {
    TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT8E4M3FN: "fp8", TensorProto.INT4: "int4", TensorProto.INT8: "int8",
}  # fmt: skip
LEAST, TUNED, MOST = "min", "opt", "max"


@dataclass(frozen=True)
class Constant:
    """An initializer. dtype: ONNX's element type.  is_zero: whether all of it is 0, read when it is asked."""

    dtype: int
    is_zero: Callable[[], bool]


@dataclass(frozen=True)
class Subject:
    """A graph to look at. structure: nodes, inputs and outputs.  constants: initializers by name.  opset: of
    ONNX's own operators.
    """

    structure: onnx.GraphProto
    constants: Mapping[str, Constant]
    opset: int = 23

    @staticmethod
    def of_graph(graph: Graph, opset: int) -> Subject:
        """A graph that is about to be written."""
        from .graph import ELEMENT_TYPES

        constants = {
            each.name: Constant(ELEMENT_TYPES[each.dtype], functools.partial(_holds_zeros, each))
            for each in graph.initializers
        }
        shapes = {each.name: each.shape for each in graph.initializers}
        structure = onnx.GraphProto()
        structure.CopyFrom(graph.structure)
        declared = {value.name for value in structure.input}
        for name, constant in constants.items():
            if name not in declared:
                value = onnx.helper.make_tensor_value_info(name, constant.dtype, shapes[name])
                structure.input.append(value)
        return Subject(structure, constants, opset)

    @staticmethod
    def of_model(model: onnx.ModelProto) -> Subject:
        """A model of whatever origin, whose tensors of data in other files are not looked into."""
        constants = {
            each.name: Constant(each.data_type, functools.partial(_is_zero, each))
            for each in model.graph.initializer
        }
        opset = next((each.version for each in model.opset_import if not each.domain), 0)
        return Subject(model.graph, constants, opset)

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """All nodes, those of branches too."""
        return tuple(_nodes(self.structure))

    @cached_property
    def types(self) -> Mapping[str, int]:
        """Element types of values, as far as ONNX infers them."""
        model = onnx.helper.make_model(
            self.structure, opset_imports=[onnx.helper.make_opsetid("", self.opset)]
        )
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        found = {value.name: value.type.tensor_type.elem_type for value in values}
        return {**found, **{name: constant.dtype for name, constant in self.constants.items()}}

    def constant(self, name: str) -> bool:
        """Whether a value is known when the graph is compiled."""
        made = {output for node in self.nodes if node.op_type == "Constant" for output in node.output}
        return name in self.constants or name in made


@dataclass(frozen=True)
class Finding:
    """A rule that a node breaks. what: with the node's own values.  fix: what to do."""

    rule: str
    node: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.node}: {self.what}"


@dataclass(frozen=True)
class Rule:
    """says: the rule in a sentence.  fix: what to do.  find: nodes that break it, and what is wrong.

    below_sm: it holds below that compute capability, times ten, alone; everywhere when None.
    """

    name: str
    says: str
    fix: str
    find: Callable[[Subject], Iterator[tuple[str, str]]] = field(repr=False)
    below_sm: int | None = None


def lint(subject: Subject, sm: int | None) -> list[Finding]:
    """All that TensorRT for compute capability ``sm`` (times ten; any that there is when None) refuses."""
    findings = []
    for rule in RULES:
        if rule.below_sm is None or (sm is not None and sm < rule.below_sm):
            findings += [Finding(rule.name, node, what, rule.fix) for node, what in rule.find(subject)]
    return findings


def lint_profiles(
    structure: onnx.GraphProto, profiles: Iterable[Mapping[str, Any]], given: Iterable[str] = ()
) -> list[Finding]:
    """What is wrong with optimization profiles: an input that none covers, sizes out of order.

    profiles: as :func:`ingot.stages.export.onnx.profiles.profiles` writes them for a graph.  given: inputs
    that have a value.
    """
    optional, findings = set(given), []
    fix = "give each input that varies least, tuned and largest sizes, in that order"
    for profile in profiles:
        for value in structure.input:
            dims = [each.dim_value or None for each in value.type.tensor_type.shape.dim]
            if None not in dims or value.name in optional:
                continue
            shapes = profile["inputs"].get(value.name)
            if shapes is None:
                what = f"profile {profile['name']} gives no sizes for {value.name}"
                findings.append(Finding("profile.missing", value.name, what, fix))
                continue
            rows = zip(shapes[LEAST], shapes[TUNED], shapes[MOST], dims, strict=True)
            for axis, (least, tuned, most, fixed) in enumerate(rows):
                if not least <= tuned <= most or (fixed is not None and {least, tuned, most} != {fixed}):
                    what = f"profile {profile['name']}, axis {axis}: {least}, {tuned}, {most}"
                    findings.append(Finding("profile.order", value.name, what, fix))
    return findings


def _foreign(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        # The parser goes by an operator's name alone.
        if node.domain not in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            yield node.name, f"{node.op_type} is of the domain {node.domain}"


def _missing(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        if not node.domain and node.op_type in MISSING:
            yield node.name, f"there is no {node.op_type}"


def _zero_points(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        if node.op_type in QUANTIZING and len(node.input) > 2 and node.input[2]:
            zero = subject.constants.get(node.input[2])
            if zero is not None and not zero.is_zero():
                yield node.name, f"the zero point {node.input[2]} is not 0"


def _constants(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        if node.op_type in QUANTIZING:
            for name in filter(None, node.input[2:3]):
                if not subject.constant(name):
                    yield node.name, f"the zero point {name} is computed while the graph runs"


def _attention_outputs(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        outputs = [name for name in node.output if name]
        if node.op_type == "Attention" and len(outputs) > 1:
            yield node.name, f"it has {len(outputs)} outputs"


def _attention_type(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        if node.op_type == "Attention" and subject.types.get(node.input[0]) == TensorProto.FLOAT:
            yield node.name, "its query is float32"


def _mixed(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        places = ALIKE.get(node.op_type, ())
        types = [subject.types.get(node.input[place], 0) for place in places if place < len(node.input)]
        known = {each for each in types if each}
        if len(known) > 1:
            names = " and ".join(NAMES.get(each, str(each)) for each in types)
            yield node.name, f"{node.op_type} of {names}"


def _type_of(element: int) -> Callable[[Subject], Iterator[tuple[str, str]]]:
    def find(subject: Subject) -> Iterator[tuple[str, str]]:
        for node in subject.nodes:
            for name in (*node.input, *node.output):
                if name and subject.types.get(name) == element:
                    yield node.name, f"{name} is {NAMES[element]}"
                    break

    return find


def _products_in_float32(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        if node.op_type in MULTIPLYING and subject.types.get(node.input[0]) == TensorProto.FLOAT:
            yield node.name, f"{node.op_type} in float32"


RULES: tuple[Rule, ...] = (
    Rule(
        "operator.domain", "operators that a runtime adds to ONNX's own have no layer",
        "export with export.onnx_nvidia, or export.onnx and quant_format: qdq", _foreign,
    ),
    Rule(
        "operator.missing", "some of ONNX's own operators have no layer either",
        "for a mixture of experts, whose routing needs NonZero, deliver a checkpoint: export.checkpoint",
        _missing,
    ),
    Rule(
        "quantize.zero_point", "zero points are 0: quantization is symmetric",
        "quantize with sym: true, and static activations on a symmetric grid", _zero_points,
    ),
    Rule(
        "quantize.constant", "zero points are known when the graph is compiled",
        "export with export.onnx_nvidia, which expands an embedding before it looks rows up", _constants,
    ),
    Rule(
        "attention.outputs", "Attention has one output, so no cache goes through it",
        "concatenate keys and values in front of it, as export.onnx_nvidia does", _attention_outputs,
    ),
    Rule(
        "attention.float32", "Attention has kernels in half precision alone",
        "set export.dtype: float16 or bfloat16", _attention_type,
    ),
    Rule(
        "type.mixed", "operands are of one type: networks are strongly typed",
        "write the graph in one dtype, as export.onnx_nvidia does, rather than converting a float32 one",
        _mixed,
    ),
    Rule(
        "type.fp8", "fp8 needs compute capability 8.9", "quantize to int8 or int4, or target SM 89 or later",
        _type_of(TensorProto.FLOAT8E4M3FN), LOWEST_SM["fp8"],
    ),
    Rule(
        "type.int4", "int4 needs compute capability 8.0", "quantize to int8, or target SM 80 or later",
        _type_of(TensorProto.INT4), LOWEST_SM["int4"],
    ),
    Rule(
        "type.bfloat16", "bfloat16 needs compute capability 8.0", "set export.dtype: float16",
        _type_of(TensorProto.BFLOAT16), LOWEST_SM["bfloat16"],
    ),
    Rule(
        "type.float32_product", "below compute capability 8.0 there is no product in float32",
        "set export.dtype: float16", _products_in_float32, 80,
    ),
)  # fmt: skip


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _holds_zeros(initializer: Initializer) -> bool:
    return not any(block.any() for block in initializer.blocks())


def _is_zero(tensor: TensorProto) -> bool:
    if tensor.HasField("raw_data"):
        return not any(tensor.raw_data)
    return tensor.data_location != TensorProto.EXTERNAL and not any(
        (*tensor.int32_data, *tensor.int64_data, *tensor.float_data)
    )
