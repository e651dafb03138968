"""Products with quantized weights, and look-ups in them, by the operators that onnxruntime adds to ONNX's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .activations import ActivationWriter, wanted
from .graph import CONTRIB
from .kernels import BlockKernel, Int8Kernel, block_kernel, kernel_for

if TYPE_CHECKING:
    from ...model.families import Linear
    from ...model.quantized import WeightSpec
    from .graph import GraphBuilder
    from .weights import Weights


class QOperatorWriter:
    """Writes with MatMulIntegerToFloat, MatMulNBits and GatherBlockQuantized; follows `linear.Quantized`."""

    def __init__(
        self, graph: GraphBuilder, weights: Weights, accuracy_level: int, *, signed: bool = False
    ) -> None:
        self._graph = graph
        self._weights = weights
        self._accuracy_level = accuracy_level
        self.activations = ActivationWriter(graph, signed=signed, all_signed=signed)

    def product(self, value: str, linear: Linear, spec: WeightSpec, *, tied: bool) -> str:
        """float32 [..., in] → [..., out].

        tied: the weight is the embedding too. Then it takes the block layout, the only one that serves both
        the product and the look-up, so that the file holds the bytes once.
        """
        choose = block_kernel if tied else kernel_for
        kernel = choose(linear.name, spec, self._accuracy_level)
        if isinstance(kernel, Int8Kernel):
            return self._int8(kernel, value, linear, spec)
        return self._blocks(kernel, value, linear)

    def reads_codes(self, linear: Linear, spec: WeightSpec) -> bool:
        """Whether the product multiplies codes of activations."""
        return isinstance(kernel_for(linear.name, spec, self._accuracy_level), Int8Kernel)

    def lookup(self, ids: str, embedding: Linear, spec: WeightSpec) -> str:
        """int64 [batch, sequence] → float32 [batch, sequence, in], rows of the weight [out, in]."""
        graph, shape = self._graph, (embedding.out_features, embedding.in_features)
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

    def _blocks(self, kernel: BlockKernel, value: str, linear: Linear) -> str:
        graph = self._graph
        packed = self._weights.packed(linear.name, (linear.out_features, linear.in_features), kernel)
        inputs = [value, graph.add(packed.codes), graph.add(packed.scales)]
        inputs.append(graph.add(packed.zeros) if packed.zeros else "")
        inputs += ["", self._bias(linear)] if linear.bias else []
        while not inputs[-1]:
            inputs.pop()
        return graph.node(
            "MatMulNBits", *inputs, domain=CONTRIB, K=linear.in_features, N=linear.out_features,
            bits=kernel.bits, block_size=kernel.block, accuracy_level=kernel.accuracy_level,
        )  # fmt: skip

    def _int8(self, kernel: Int8Kernel, value: str, linear: Linear, spec: WeightSpec) -> str:
        """A scale of each row is multiplied behind the product, and then only a bias can be added."""
        graph = self._graph
        rounded = self.activations.rounded(value, wanted(spec) or "per row")
        shape = (linear.out_features, linear.in_features)
        codes, scales, zeros = self._weights.int8_columns(linear.name, shape)
        inputs = [rounded.codes, graph.add(codes), rounded.scale, graph.add(scales), rounded.zero]
        inputs.append(graph.add(zeros) if kernel.has_zeros else "")
        inputs.append(self._bias(linear) if linear.bias and rounded.largest is None else "")
        while not inputs[-1]:
            inputs.pop()
        product = graph.node("MatMulIntegerToFloat", *inputs, domain=CONTRIB)
        if rounded.largest is None:
            return product
        product = graph.node("Mul", product, rounded.largest)
        return graph.node("Add", product, self._bias(linear)) if linear.bias else product

    def _bias(self, linear: Linear) -> str:
        return self._graph.add(self._weights.floats(str(linear.bias), (linear.out_features,)))
