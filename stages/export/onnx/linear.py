"""Linear maps and embeddings as nodes, in floating point or with the kernel that a quantized weight needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .graph import CONTRIB
from .kernels import BlockKernel, Int8Kernel, Kernel, block_kernel, kernel_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...model.families import Linear
    from .graph import GraphBuilder
    from .weights import Weights

# Activations divided by their row's largest magnitude are codes about 128 in steps of 1/127.
MIDDLE, STEP = 128, 1 / 127
# A row of zeros has no magnitude to divide by; anything above zero keeps it zeros.
SMALLEST = 1e-30


class LinearWriter:
    """Writes y = x W^T + b for x: float32 [rows, in], and look-ups of rows of W.

    accuracy_level: MatMulNBits' own, 0 to compute in float32, 4 with int8 blocks of activations.
    """

    def __init__(self, graph: GraphBuilder, weights: Weights, accuracy_level: int) -> None:
        self._graph = graph
        self._weights = weights
        self._accuracy_level = accuracy_level
        self._int8_rows: dict[str, tuple[str, str]] = {}

    def linear(self, value: str, linear: Linear) -> str:
        """[rows, in] → [rows, out]."""
        kernel = self._kernel(linear)
        return self._float(value, linear) if kernel is None else self._with(kernel, value, linear)

    def grouped(self, value: str, counts: str, linears: Sequence[Linear]) -> str:
        """[rows, in] → [rows, out]: the first counts[0] rows through the first map, and so on.

        counts: int64 [maps], adding up to rows; some may be 0. Activations are rounded before they are
        divided, since onnxruntime's ReduceMax does not give the row maxima of no rows.
        """
        graph, kernels = self._graph, [self._kernel(linear) for linear in linears]
        rounded = [isinstance(kernel, Int8Kernel) for kernel in kernels]

        def divided(whole: str) -> tuple[str, ...]:
            return graph.nodes("Split", (whole, counts), len(linears), axis=0)

        codes, largest = map(divided, self._quantized_rows(value)) if any(rounded) else ((), ())
        parts = codes if all(rounded) else divided(value)
        self._int8_rows.update(zip(parts, zip(codes, largest, strict=True), strict=False))
        results = [self.linear(part, linear) for part, linear in zip(parts, linears, strict=True)]
        return graph.node("Concat", *results, axis=0)

    def head(self, tokens: str, head: Linear, *, tied: bool) -> str:
        """[batch, kept, hidden] → [batch, kept, vocabulary].

        tied: the head is the embedding. Then it takes the block layout, the only one that serves both the
        product and the look-up, so that the file holds the bytes once.
        """
        graph = self._graph
        spec = self._weights.spec(head.name)
        if spec is not None:
            # These kernels take tokens as they are; reshaping logits at the end would copy them all.
            kind = block_kernel if tied else kernel_for
            return self._with(kind(head.name, spec, self._accuracy_level), tokens, head)
        rows = self._float(graph.node("Reshape", tokens, graph.ints(-1, head.in_features)), head)
        batch_and_kept = graph.node("Shape", tokens, start=0, end=2)
        shape = graph.node("Concat", batch_and_kept, graph.ints(head.out_features), axis=0)
        return graph.node("Reshape", rows, shape)

    def embedding(self, ids: str, embedding: Linear) -> str:
        """int64 [batch, sequence] → float32 [batch, sequence, hidden], rows of [vocabulary, hidden]."""
        graph, shape = self._graph, (embedding.out_features, embedding.in_features)
        spec = self._weights.spec(embedding.name)
        if spec is None:
            return graph.node("Gather", graph.add(self._weights.floats(embedding.name, shape)), ids)
        kernel = block_kernel(embedding.name, spec, self._accuracy_level)
        packed = self._weights.packed(embedding.name, shape, kernel)
        count = kernel.blocks(embedding.in_features)
        scales = graph.node("Reshape", graph.add(packed.scales), graph.ints(-1, count, 1))
        zeros = (graph.add(packed.lookup_zeros),) if packed.lookup_zeros else ()
        blocks = graph.node(
            "GatherBlockQuantized", graph.add(packed.codes), ids, scales, *zeros, domain=CONTRIB,
            bits=kernel.bits, block_size=kernel.block, gather_axis=0, quantize_axis=2,
        )  # fmt: skip
        rows = graph.node("Reshape", blocks, graph.ints(0, 0, -1))
        if count * kernel.block == embedding.in_features:
            return rows
        width = graph.ints(embedding.in_features)
        return graph.node("Slice", rows, graph.ints(0), width, graph.ints(2))

    def _kernel(self, linear: Linear) -> Kernel | None:
        spec = self._weights.spec(linear.name)
        return None if spec is None else kernel_for(linear.name, spec, self._accuracy_level)

    def _float(self, value: str, linear: Linear) -> str:
        shape = (linear.out_features, linear.in_features)
        stored = shape[::-1] if linear.stored_in_out else shape
        weight = self._graph.add(self._weights.floats(linear.name, stored))
        bias = (self._bias(linear.bias, linear),) if linear.bias else ()
        return self._graph.node("Gemm", value, weight, *bias, transB=0 if linear.stored_in_out else 1)

    def _with(self, kernel: Kernel, value: str, linear: Linear) -> str:
        if isinstance(kernel, Int8Kernel):
            return self._int8(kernel, value, linear)
        return self._blocks(kernel, value, linear)

    def _blocks(self, kernel: BlockKernel, value: str, linear: Linear) -> str:
        graph = self._graph
        packed = self._weights.packed(linear.name, (linear.out_features, linear.in_features), kernel)
        inputs = [value, graph.add(packed.codes), graph.add(packed.scales)]
        inputs.append(graph.add(packed.zeros) if packed.zeros else "")
        inputs += ["", self._bias(linear.bias, linear)] if linear.bias else []
        while not inputs[-1]:
            inputs.pop()
        return graph.node(
            "MatMulNBits", *inputs, domain=CONTRIB, K=linear.in_features, N=linear.out_features,
            bits=kernel.bits, block_size=kernel.block, accuracy_level=kernel.accuracy_level,
        )  # fmt: skip

    def _int8(self, kernel: Int8Kernel, value: str, linear: Linear) -> str:
        graph = self._graph
        rows, largest = self._quantized_rows(value)
        shape = (linear.out_features, linear.in_features)
        codes, scales, zeros = self._weights.int8_columns(linear.name, shape)
        product = graph.node(
            "MatMulIntegerToFloat", rows, graph.add(codes), graph.scalar(STEP), graph.add(scales),
            graph.scalar(MIDDLE, "uint8"), *((graph.add(zeros),) if kernel.has_zeros else ()),
            domain=CONTRIB,
        )  # fmt: skip
        result = graph.node("Mul", product, largest)
        return graph.node("Add", result, self._bias(linear.bias, linear)) if linear.bias else result

    def _quantized_rows(self, value: str) -> tuple[str, str]:
        """float32 [rows, in] → codes uint8 [rows, in] about 128, and each row's largest magnitude [rows, 1].

        One scale a row, that is a token: what else is in the batch cannot change a token's result, and the
        divergence from float32 was a fifth of that with one scale for all rows, for 8 % of the time. Maps
        that read the same value share it.
        """
        if value not in self._int8_rows:
            graph = self._graph
            largest = graph.node("ReduceMax", graph.node("Abs", value), graph.ints(-1), keepdims=1)
            largest = graph.node("Max", largest, graph.scalar(SMALLEST))
            unit = graph.node("Div", value, largest)
            codes = graph.node("QuantizeLinear", unit, graph.scalar(STEP), graph.scalar(MIDDLE, "uint8"))
            self._int8_rows[value] = (codes, largest)
        return self._int8_rows[value]

    def _bias(self, name: str, linear: Linear) -> str:
        return self._graph.add(self._weights.floats(name, (linear.out_features,)))
