"""The feed-forward half of a layer: dense, gated, or a mixture of experts, all on [rows, features]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....artifacts.errors import StageError
from ...model.families import Mixture
from .positions import range_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...model.families import Activation, FeedForward, Linear
    from .graph import GraphBuilder
    from .linear import LinearWriter

    # Multiplies [rows, in] by one map, or each expert's rows by its own.
    Apply = Callable[[str, Sequence[Linear]], str]

# Experts that stand in one graph, and in each of several where there are more (tests/bench/bench_experts.py).
MOST_TOGETHER = 16
GROUP = 8


class FeedForwardWriter:
    """Writes feed-forward blocks with one activation."""

    def __init__(self, graph: GraphBuilder, linears: LinearWriter, activation: Activation) -> None:
        self._graph = graph
        self._linears = linears
        self._activation = activation

    def write(self, value: str, block: FeedForward | Mixture) -> str:
        """[rows, hidden] → [rows, hidden]."""
        if isinstance(block, Mixture):
            return self._mixture(value, block)
        return self._through(value, (block,), lambda rows, maps: self._linears.linear(rows, maps[0]))

    def _through(self, value: str, blocks: Sequence[FeedForward], apply: Apply) -> str:
        """The rows through blocks that are all of the same form."""
        graph, form = self._graph, blocks[0]
        if form.gate_in_up:
            both, half = apply(value, [block.up for block in blocks]), form.up.out_features // 2
            gate, opened = graph.nodes("Split", (both, graph.ints(half, half)), 2, axis=-1)
            active = graph.node("Mul", self._activate(gate), opened)
        elif form.gate is not None:
            gates = [block.gate for block in blocks if block.gate is not None]
            active = self._activate(apply(value, gates))
            active = graph.node("Mul", active, apply(value, [block.up for block in blocks]))
        else:
            active = self._activate(apply(value, [block.up for block in blocks]))
        return apply(active, [block.down for block in blocks])

    def _mixture(self, value: str, block: Mixture) -> str:
        """Rows are put in the order of their experts, so that each expert multiplies its own rows alone.

        An expert that no row chose gets none, and costs the start of its operators. What comes out is put
        back in the order of the rows, and so summed in one order whatever else is in the batch.
        """
        graph, hidden = self._graph, block.router.in_features
        weights, experts = self._route(value, block)
        numbers = np.arange(len(block.experts), dtype=np.int64)[:, None]
        chosen = graph.node("Reshape", experts, graph.ints(1, -1))
        taken = graph.node("Equal", chosen, graph.array(f"experts[{len(block.experts)}]", numbers))
        counts = graph.node("ReduceSum", graph.node("Cast", taken, to=7), graph.ints(1), keepdims=0)
        # Row by row of ``taken``: the choices of the first expert, then those of the second.
        order = graph.node("Gather", graph.node("NonZero", taken), graph.scalar(1, "int64"), axis=0)
        rows = graph.node("Div", order, graph.scalar(block.chosen, "int64"))
        found = self._experts(graph.node("Gather", value, rows), counts, block.experts, hidden)
        places = range_of(graph, graph.node("Shape", order))
        back = graph.node("ScatterElements", order, order, places)
        found = graph.node("Reshape", graph.node("Gather", found, back), graph.ints(-1, block.chosen, hidden))
        mixed = graph.node("MatMul", graph.node("Unsqueeze", weights, graph.ints(1)), found)
        return self._with_shared(value, block, graph.node("Squeeze", mixed, graph.ints(1)))

    def _experts(self, value: str, counts: str, experts: Sequence[FeedForward], hidden: int) -> str:
        """Rows [rows, hidden] in the order of their experts through them; counts: int64 [experts].

        A runtime plans memory in time that grows as the square of the values whose size it does not know, and
        every expert makes some: six layers of 128 open in 13.8 s in one graph, in 1.6 s in groups. Each is a
        graph of its own, run only when one of its experts was chosen. Products of int8 codes stay in one
        graph: where the processor adds them in 16 bits, onnxruntime widens no weight for a graph inside.
        """
        graph = self._graph
        maps = [linear for expert in experts for linear in expert.linears]
        if len(experts) <= MOST_TOGETHER or self._linears.multiplies_codes(maps):
            return self._through(value, experts, lambda each, maps: self._linears.grouped(each, counts, maps))
        starts = range(0, len(experts), GROUP)
        groups = [experts[start : start + GROUP] for start in starts]
        sizes = graph.ints(*map(len, groups))
        own = graph.nodes("Split", (counts, sizes), len(groups), axis=0)
        totals = [graph.node("ReduceSum", each, graph.ints(0), keepdims=1) for each in own]
        parts = graph.nodes("Split", (value, graph.node("Concat", *totals, axis=0)), len(groups), axis=0)
        results = []
        for part, each, total, group in zip(parts, own, totals, groups, strict=True):
            is_chosen = graph.node("Squeeze", graph.node("Greater", total, graph.ints(0)))

            def write(part: str = part, each: str = each, group: Sequence[FeedForward] = group) -> str:
                return self._through(part, group, lambda rows, maps: self._linears.grouped(rows, each, maps))

            results.append(graph.choice(is_chosen, part, hidden, write))
        return graph.node("Concat", *results, axis=0)

    def _route(self, value: str, block: Mixture) -> tuple[str, str]:
        """The chosen experts of each row, heaviest first, and their weights: both [rows, chosen]."""
        graph = self._graph
        shares = graph.node("Softmax", self._linears.linear(value, block.router), axis=-1)
        weights, experts = graph.nodes("TopK", (shares, graph.ints(block.chosen)), 2, axis=-1)
        if block.normalized:
            whole = graph.node("ReduceSum", weights, graph.ints(-1), keepdims=1)
            weights = graph.node("Div", weights, whole)
        return weights, experts

    def _with_shared(self, value: str, block: Mixture, mixed: str) -> str:
        if block.shared is None:
            return mixed
        shared = self.write(value, block.shared)
        if block.shared_gate is not None:
            share = self._graph.node("Sigmoid", self._linears.linear(value, block.shared_gate))
            shared = self._graph.node("Mul", share, shared)
        return self._graph.node("Add", mixed, shared)

    def _activate(self, value: str) -> str:
        graph = self._graph
        match self._activation:
            case "silu":
                return graph.node("Mul", value, graph.node("Sigmoid", value))
            case "gelu":
                return graph.node("Gelu", value)
            case "gelu_tanh":
                return graph.node("Gelu", value, approximate="tanh")
            case "relu":
                return graph.node("Relu", value)
        raise StageError(f"no operator computes the activation {self._activation!r}")
