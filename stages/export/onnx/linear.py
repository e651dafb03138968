"""Linear maps and embeddings as nodes, in floating point or as a quantized weight needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from .activations import wanted
from .graph import Runtime
from .qdq import QdqWriter
from .qoperator import QOperatorWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...model.families import Linear
    from ...model.quantized import WeightSpec
    from .activations import ActivationWriter
    from .graph import GraphBuilder
    from .weights import Weights

QuantFormat = Literal["qoperator", "qdq"]


@dataclass(frozen=True)
class Form:
    """How quantized weights are written.

    quant_format: with the operators that onnxruntime adds, or with ONNX's own alone, as `QuantizeLinear` and
    `DequantizeLinear`.  accuracy_level: MatMulNBits' own, 0 to compute in float32, 4 with int8 blocks of
    activations.  dtype: what is computed in, and what caches hold; inputs of ids, logits and hidden states
    keep their own.  runtime: TensorRT takes the same operators in fewer forms.
    signed_activations: see :class:`ActivationWriter`.
    """

    accuracy_level: int
    quant_format: QuantFormat = "qoperator"
    dtype: str = "float32"
    runtime: Runtime = "onnxruntime"
    signed_activations: bool = False


class Quantized(Protocol):
    """What computes with quantized weights; see :class:`QOperatorWriter`."""

    activations: ActivationWriter

    def product(self, value: str, linear: Linear, spec: WeightSpec, *, tied: bool) -> str:
        """float32 [..., in] → [..., out]; tied: the weight is the embedding too."""

    def reads_codes(self, linear: Linear, spec: WeightSpec) -> bool:
        """Whether the product multiplies codes of activations."""

    def lookup(self, ids: str, embedding: Linear, spec: WeightSpec) -> str:
        """int64 [batch, sequence] → float32 [batch, sequence, in]."""


class LinearWriter:
    """Writes y = x W^T + b for x: float32 [rows, in], and look-ups of rows of W."""

    def __init__(self, graph: GraphBuilder, weights: Weights, form: Form) -> None:
        self._graph = graph
        self._weights = weights
        self._quantized: Quantized = (
            QdqWriter(graph, weights)
            if form.quant_format == "qdq"
            else QOperatorWriter(graph, weights, form.accuracy_level, signed=form.signed_activations)
        )

    def linear(self, value: str, linear: Linear) -> str:
        """[rows, in] → [rows, out]; a factored map is two products."""
        for weight in linear.weights:
            spec = self._weights.spec(weight.name)
            if spec is None:
                value = self._float(value, weight)
            else:
                value = self._quantized.product(value, weight, spec, tied=False)
        return value

    def multiplies_codes(self, linears: Iterable[Linear]) -> bool:
        """Whether any of the maps multiplies codes of activations."""
        weights = [weight for linear in linears for weight in linear.weights]
        specs = ((weight, self._weights.spec(weight.name)) for weight in weights)
        return any(spec is not None and self._quantized.reads_codes(linear, spec) for linear, spec in specs)

    def grouped(self, value: str, counts: str, linears: Sequence[Linear]) -> str:
        """[rows, in] → [rows, out]: the first counts[0] rows through the first map, and so on.

        counts: int64 [maps], adding up to rows; some may be 0.
        """
        wants = []
        for linear in (each.entry for each in linears):
            spec = self._weights.spec(linear.name)
            reads = spec is not None and self._quantized.reads_codes(linear, spec)
            wants.append(wanted(spec) if reads else None)
        parts = self._quantized.activations.divide(value, counts, wants)
        results = [self.linear(part, linear) for part, linear in zip(parts, linears, strict=True)]
        return self._graph.node("Concat", *results, axis=0)

    def head(self, tokens: str, head: Linear, *, tied: bool) -> str:
        """[batch, kept, hidden] → [batch, kept, vocabulary]; tied: the head is the embedding."""
        if head.first is not None:
            before, head = head.weights
            tokens = self._by_rows(tokens, before)
        spec = self._weights.spec(head.name)
        if spec is not None:
            # These kernels take tokens as they are; reshaping logits at the end would copy them all.
            return self._quantized.product(tokens, head, spec, tied=tied)
        return self._by_rows(tokens, head)

    def embedding(self, ids: str, embedding: Linear) -> str:
        """int64 [batch, sequence] → float32 [batch, sequence, hidden], rows of [vocabulary, hidden]."""
        graph, shape = self._graph, (embedding.out_features, embedding.in_features)
        spec = self._weights.spec(embedding.name)
        if spec is None:
            return graph.node("Gather", graph.add(self._weights.floats(embedding.name, shape)), ids)
        return self._quantized.lookup(ids, embedding, spec)

    def _by_rows(self, tokens: str, linear: Linear) -> str:
        """[batch, kept, in] → [batch, kept, out]."""
        graph = self._graph
        rows = self.linear(graph.node("Reshape", tokens, graph.ints(-1, linear.in_features)), linear)
        batch_and_kept = graph.node("Shape", tokens, start=0, end=2)
        shape = graph.node("Concat", batch_and_kept, graph.ints(linear.out_features), axis=0)
        return graph.node("Reshape", rows, shape)

    def _float(self, value: str, linear: Linear) -> str:
        shape = (linear.out_features, linear.in_features)
        stored = shape[::-1] if linear.stored_in_out else shape
        weight = self._graph.add(self._weights.floats(linear.name, stored))
        bias = (self._bias(linear.bias, linear),) if linear.bias else ()
        return self._graph.node("Gemm", value, weight, *bias, transB=0 if linear.stored_in_out else 1)

    def _bias(self, name: str, linear: Linear) -> str:
        return self._graph.add(self._weights.floats(name, (linear.out_features,)))
