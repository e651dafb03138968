"""The pieces that decoders and encoders share: norms, attention, feed-forward, all on [rows, features]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import StageError

if TYPE_CHECKING:
    from ...model.families import Architecture, Attention, FeedForward, Layer, Linear, Norm
    from .graph import GraphBuilder
    from .linear import LinearWriter
    from .weights import Weights


@dataclass(frozen=True)
class Past:
    """One layer's cache: names of the past inputs and of the present outputs."""

    key: str
    value: str
    present_key: str
    present_value: str


@dataclass(frozen=True)
class Cross:
    """What one layer attends to of the source: key and value float32 [batch, kv_heads, source, head_dim], and
    the mask float32 [batch, 1, sequence, source].
    """

    key: str
    value: str
    mask: str


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of every position's angles, float32 [batch, sequence, dim / 2]."""

    cosine: str
    sine: str


class BlockWriter:
    """Writes the blocks of one architecture.

    shape: the name of int64 [batch, sequence]. Rows are batch times sequence, so that every map is a plain
    matrix product; only attention sees the two apart.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        weights: Weights,
        linears: LinearWriter,
        architecture: Architecture,
        shape: str,
    ) -> None:
        self._graph = graph
        self._weights = weights
        self._linears = linears
        self._architecture = architecture
        self._shape = shape
        self._shapes: dict[int, str] = {}

    def split_rows(self, value: str, width: int) -> str:
        """[rows, width] → [batch, sequence, width]; also gathers [rows·heads, head_dim] into tokens."""
        if width not in self._shapes:
            self._shapes[width] = self._graph.node("Concat", self._shape, self._graph.ints(width), axis=0)
        return self._graph.node("Reshape", value, self._shapes[width])

    def join_rows(self, value: str, width: int) -> str:
        """[batch, sequence, width] → [rows, width]."""
        return self._graph.node("Reshape", value, self._graph.ints(-1, width))

    def norm(self, value: str, norm: Norm, width: int) -> str:
        """Normalizes the last axis, of that width (RMSNorm, arXiv:1910.07467, or LayerNorm, 1607.06450)."""
        graph, epsilon = self._graph, self._architecture.norm_eps
        scale = graph.add(self._weights.floats(norm.weight, (width,)))
        if self._architecture.norm == "rms":
            return graph.node("RMSNormalization", value, scale, axis=-1, epsilon=epsilon)
        shift = (graph.add(self._weights.floats(norm.bias, (width,))),) if norm.bias else ()
        return graph.node("LayerNormalization", value, scale, *shift, axis=-1, epsilon=epsilon)

    def layer(
        self,
        state: str,
        layer: Layer,
        mask: str,
        past: Past | None,
        rotation: Rotation | None,
        cross: Cross | None = None,
    ) -> str:
        """[rows, hidden] → [rows, hidden]; see :meth:`attention` for mask and past."""
        if self._architecture.norm_first:
            value = self._layer_norm(state, layer.attention_norm)
            state = self._add(state, self.attention(value, layer.attention, mask, past, rotation))
            state = self._cross(state, layer, cross)
            value = self._layer_norm(state, layer.feed_forward_norm)
            return self._add(state, self.feed_forward(value, layer.feed_forward))
        state = self._add(state, self.attention(state, layer.attention, mask, past, rotation))
        state = self._layer_norm(state, layer.attention_norm)
        state = self._cross(state, layer, cross)
        state = self._add(state, self.feed_forward(state, layer.feed_forward))
        return self._layer_norm(state, layer.feed_forward_norm)

    def attention(
        self, value: str, attention: Attention, mask: str, past: Past | None, rotation: Rotation | None
    ) -> str:
        """[rows, hidden] → [rows, hidden].

        mask: float32 [batch or 1, heads or 1, sequence, total], added to the scores.  With a past, total is past and
        sequence together, and the cache that includes this step is written to the present outputs.
        """
        graph, model = self._graph, self._architecture
        widths = (model.heads * model.head_dim, *[model.kv_heads * model.head_dim] * 2)
        projected = [self._linears.linear(value, linear) for linear in attention.inputs]
        if len(projected) == 1:
            projected = list(graph.nodes("Split", (projected[0], graph.ints(*widths)), 3, axis=-1))
        norms = (attention.query_norm, attention.key_norm, None)
        parts = []
        for name, width, norm in zip(projected, widths, norms, strict=True):
            part = name
            if norm is not None:
                heads = graph.node("Reshape", part, graph.ints(-1, model.head_dim))
                part = self.norm(heads, norm, model.head_dim)
            parts.append(self.split_rows(part, width))
        query, key, state = parts
        if rotation is not None:
            query = self._rotate(query, rotation, model.heads)
            key = self._rotate(key, rotation, model.kv_heads)
        mixed = self._attend((query, key, state), attention.scale, mask, past)
        return self._linears.linear(self.join_rows(mixed, widths[0]), attention.output)

    def cross_attention(self, value: str, attention: Attention, cross: Cross) -> str:
        """[rows, hidden] → [rows, hidden], with keys and values that :meth:`cross_part` made."""
        graph, model = self._graph, self._architecture
        width = model.heads * model.head_dim
        query = self.by_head(self._linears.linear(value, attention.inputs[0]), model.heads)
        mixed = graph.node("Attention", query, cross.key, cross.value, cross.mask, scale=attention.scale)
        rows = self.join_rows(graph.node("Transpose", mixed, perm=(0, 2, 1, 3)), width)
        return self._linears.linear(rows, attention.output)

    def cross_part(self, source: str, linear: Linear) -> str:
        """A layer's keys or values of the source: [rows, hidden] → [batch, kv_heads, source, head_dim]."""
        return self.by_head(self._linears.linear(source, linear), self._architecture.kv_heads)

    def by_head(self, value: str, heads: int) -> str:
        """[rows, heads·head_dim] → [batch, heads, sequence, head_dim]."""
        graph = self._graph
        shape = graph.node("Concat", self._shape, graph.ints(heads, self._architecture.head_dim), axis=0)
        return graph.node("Transpose", graph.node("Reshape", value, shape), perm=(0, 2, 1, 3))

    def feed_forward(self, value: str, block: FeedForward) -> str:
        """[rows, hidden] → [rows, hidden]."""
        opened = self._linears.linear(value, block.gate or block.up)
        active = self._activate(opened)
        if block.gate is not None:
            active = self._graph.node("Mul", active, self._linears.linear(value, block.up))
        return self._linears.linear(active, block.down)

    def _cross(self, state: str, layer: Layer, cross: Cross | None) -> str:
        if cross is None or layer.cross_attention is None or layer.cross_attention_norm is None:
            return state
        if self._architecture.norm_first:
            value = self._layer_norm(state, layer.cross_attention_norm)
            return self._add(state, self.cross_attention(value, layer.cross_attention, cross))
        state = self._add(state, self.cross_attention(state, layer.cross_attention, cross))
        return self._layer_norm(state, layer.cross_attention_norm)

    def _add(self, state: str, update: str) -> str:
        return self._graph.node("Add", state, update)

    def _layer_norm(self, value: str, norm: Norm) -> str:
        return self.norm(value, norm, self._architecture.hidden)

    def _rotate(self, value: str, rotation: Rotation, heads: int) -> str:
        return self._graph.node("RotaryEmbedding", value, rotation.cosine, rotation.sine, num_heads=heads)

    def _attend(self, parts: tuple[str, str, str], scale: float, mask: str, past: Past | None) -> str:
        graph, model = self._graph, self._architecture
        heads: dict[str, Any] = {"q_num_heads": model.heads, "kv_num_heads": model.kv_heads, "scale": scale}
        if past is None:
            return graph.node("Attention", *parts, mask, **heads)
        result = f"{past.present_key}/attended"
        graph.named(
            "Attention",
            (*parts, mask, past.key, past.value),
            (result, past.present_key, past.present_value),
            **heads,
        )
        return result

    def _activate(self, value: str) -> str:
        graph = self._graph
        match self._architecture.activation:
            case "silu":
                return graph.node("Mul", value, graph.node("Sigmoid", value))
            case "gelu":
                return graph.node("Gelu", value)
            case "gelu_tanh":
                return graph.node("Gelu", value, approximate="tanh")
            case "relu":
                return graph.node("Relu", value)
        raise StageError(f"no operator computes the activation {self._architecture.activation!r}")
