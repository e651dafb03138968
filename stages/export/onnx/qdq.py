"""Products with quantized weights, and look-ups in them, by ONNX's own operators alone.

QuantizeLinear and DequantizeLinear around MatMul is what TensorRT, OpenVINO, QNN and others turn into their
int8 kernels; onnxruntime too, into those that `qoperator.py` names. Codes are written about 0: int8, or int4
for 2 to 4 bits. Zero points are always written, even where they are 0, since onnxruntime's exact int8 mode
(see `session.py`) moves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....artifacts.errors import InputError
from .activations import ActivationWriter, wanted

if TYPE_CHECKING:
    from ...model.families import Linear
    from ...model.quantized import WeightSpec
    from .graph import GraphBuilder, Initializer
    from .weights import Weights


class QdqWriter:
    """Writes with QuantizeLinear and DequantizeLinear; follows `linear.Quantized`."""

    def __init__(self, graph: GraphBuilder, weights: Weights) -> None:
        self._graph = graph
        self._weights = weights
        self.activations = ActivationWriter(graph, signed=True)

    def product(self, value: str, linear: Linear, spec: WeightSpec, *, tied: bool) -> str:
        """float32 [..., in] → [..., out].

        tied: the weight is the embedding too and stays [out, in], which Gemm turns; that wants [rows, in].
        """
        if not tied:
            return self._rows(value, linear, spec, tied=False)
        graph = self._graph
        outer = graph.node("Shape", value, start=0, end=-1)
        # In front of the rounding: onnxruntime moves it across a Reshape, and confuses the type of codes.
        value = graph.node("Reshape", value, graph.ints(-1, linear.in_features))
        shape = graph.node("Concat", outer, graph.ints(linear.out_features), axis=0)
        return graph.node("Reshape", self._rows(value, linear, spec, tied=True), shape)

    def reads_codes(self, _linear: Linear, spec: WeightSpec) -> bool:
        """Whether the product multiplies codes of activations."""
        return wanted(spec) is not None

    def lookup(self, ids: str, embedding: Linear, spec: WeightSpec) -> str:
        """int64 [batch, sequence] → float32 [batch, sequence, in], rows of the weight [out, in].

        Codes of 8 bits are looked up, then expanded: no runtime expands the whole table for a few rows, and
        onnxruntime does not take int8 codes that two operators expand, as of a tied head. Gather does not
        take int4 ones, so there the table is expanded; TensorRT wants scales to be constants, so there too.
        """
        graph = self._graph
        if spec.format.bits < 8 or graph.runtime == "tensorrt":
            return graph.node("Gather", self._dequantized(embedding, spec, transposed=False), ids)
        parts = self._parts(embedding, spec, transposed=False)
        codes, *places = (graph.node("Gather", graph.add(part), ids) for part in parts)
        if not spec.format.group_size:
            places = [graph.node("Unsqueeze", place, graph.ints(-1)) for place in places]
        size = spec.format.group_size or embedding.in_features
        return graph.node("DequantizeLinear", codes, *places, axis=2, block_size=size)

    def _rows(self, value: str, linear: Linear, spec: WeightSpec, *, tied: bool) -> str:
        graph, want, largest = self._graph, wanted(spec), None
        if want is not None:
            rounded = self.activations.rounded(value, want)
            value = graph.node("DequantizeLinear", rounded.codes, rounded.scale, rounded.zero)
            largest = rounded.largest
        weight = self._dequantized(linear, spec, transposed=not tied)
        result = graph.node("Gemm", value, weight, transB=1) if tied else graph.node("MatMul", value, weight)
        if largest is not None:
            result = graph.node("Mul", result, largest)
        if linear.bias is None:
            return result
        return graph.node("Add", result, graph.add(self._weights.floats(linear.bias, (linear.out_features,))))

    def _dequantized(self, linear: Linear, spec: WeightSpec, *, transposed: bool) -> str:
        """The weight [out, in] or, transposed, [in, out], from its codes; a node of its own for each use."""
        parts = self._parts(linear, spec, transposed=transposed)
        options: dict[str, Any] = {"axis": 1 if transposed else 0}
        if spec.format.group_size:
            options = {"axis": 0 if transposed else 1, "block_size": spec.format.group_size}
        return self._graph.node("DequantizeLinear", *map(self._graph.add, parts), **options)

    def _parts(self, linear: Linear, spec: WeightSpec, *, transposed: bool) -> tuple[Initializer, ...]:
        """Codes, scales and zero points; raises InputError for codes that ONNX cannot hold."""
        form = spec.format
        if form.numeric == "nf4" or form.bits not in (2, 3, 4, 8):
            raise InputError(
                f"{linear.name}: no ONNX operator expands {form.width} weights in this opset",
                fix="quantize to 2, 3, 4 or 8 bit integers, or to fp8",
            )
        shape = (linear.out_features, linear.in_features)
        return self._weights.signed(linear.name, shape, transposed=transposed)
