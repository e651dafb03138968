"""The pieces that decoders and encoders share: norms, attention, layers, all on [rows, features]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .capped import capped_attention
from .feed_forward import FeedForwardWriter

if TYPE_CHECKING:
    from ...model.families import Architecture, Attention, Layer, Linear, Norm
    from .graph import GraphBuilder
    from .linear import LinearWriter
    from .positions import Rotation
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
        self._forward = FeedForwardWriter(graph, linears, architecture.activation)

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
        if self._architecture.norm == "rms_above_one":
            # Added before it is narrowed: beside 1, half precision keeps little of a small weight.
            wide = graph.add(self._weights.floats(norm.weight, (width,), "float32"))
            scale = graph.node("Add", wide, graph.scalar(1.0, "float32"))
            scale = scale if graph.dtype == "float32" else graph.cast(scale)
        else:
            scale = graph.add(self._weights.floats(norm.weight, (width,)))
        if self._architecture.norm != "layer":
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
        if self._architecture.parallel:
            return self._parallel(state, layer, mask, past, rotation)
        before = self._architecture.norm_first
        value = self._layer_norm(state, layer.attention_norm) if before else state
        update = self.attention(value, layer.attention, mask, past, rotation)
        state = self._add(state, self._layer_norm(update, layer.attention_post_norm))
        state = state if before else self._layer_norm(state, layer.attention_norm)
        state = self._cross(state, layer, cross)
        value = self._layer_norm(state, layer.feed_forward_norm) if before else state
        update = self._forward.write(value, layer.feed_forward)
        state = self._add(state, self._layer_norm(update, layer.feed_forward_post_norm))
        return state if before else self._layer_norm(state, layer.feed_forward_norm)

    def attention(
        self, value: str, attention: Attention, mask: str, past: Past | None, rotation: Rotation | None
    ) -> str:
        """[rows, hidden] → [rows, hidden].

        mask: float32 [batch or 1, heads or 1, sequence, total], added to the scores.  With a past, total is
        past and sequence together, and the cache that includes this step is written to the present outputs.
        """
        graph, model = self._graph, self._architecture
        widths = (model.heads * model.head_dim, *[model.kv_heads * model.head_dim] * 2)
        projected = [self._linears.linear(value, linear) for linear in attention.inputs]
        if len(projected) == 1:
            projected = list(self._split_inputs(projected[0], widths, attention))
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
        mixed = self._attend((query, key, state), attention, mask, past)
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

    def _parallel(
        self, state: str, layer: Layer, mask: str, past: Past | None, rotation: Rotation | None
    ) -> str:
        value = self._layer_norm(state, layer.attention_norm)
        update = self.attention(value, layer.attention, mask, past, rotation)
        if layer.feed_forward_norm != layer.attention_norm:
            value = self._layer_norm(state, layer.feed_forward_norm)
        return self._add(state, self._add(update, self._forward.write(value, layer.feed_forward)))

    def _split_inputs(self, value: str, widths: tuple[int, ...], attention: Attention) -> tuple[str, ...]:
        """Query, key and value from one map; each [rows, heads·head_dim], or [rows·heads, head_dim]."""
        graph, head_dim = self._graph, self._architecture.head_dim
        if attention.interleaved:
            value = graph.node("Reshape", value, graph.ints(-1, 3 * head_dim))
            widths = (head_dim, head_dim, head_dim)
        return graph.nodes("Split", (value, graph.ints(*widths)), 3, axis=-1)

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

    def _layer_norm(self, value: str, norm: Norm | None) -> str:
        return self.norm(value, norm, self._architecture.hidden) if norm else value

    def _rotate(self, value: str, rotation: Rotation, heads: int) -> str:
        options: dict[str, Any] = {"num_heads": heads}
        if rotation.dim < self._architecture.head_dim:
            options["rotary_embedding_dim"] = rotation.dim
        return self._graph.node("RotaryEmbedding", value, rotation.cosine, rotation.sine, **options)

    def _attend(self, parts: tuple[str, str, str], attention: Attention, mask: str, past: Past | None) -> str:
        graph, model, scale = self._graph, self._architecture, attention.scale
        if attention.softcap is not None:
            return capped_attention(graph, model, parts, scale, attention.softcap, mask, past)
        heads: dict[str, Any] = {"q_num_heads": model.heads, "kv_num_heads": model.kv_heads, "scale": scale}
        if past is None:
            return graph.node("Attention", *parts, mask, **heads)
        if graph.runtime == "tensorrt":
            return self._attend_after(parts, scale, mask, past)
        result = f"{past.present_key}/attended"
        graph.named(
            "Attention",
            (*parts, mask, past.key, past.value),
            (result, past.present_key, past.present_value),
            **heads,
        )
        return result

    def _attend_after(self, parts: tuple[str, str, str], scale: float, mask: str, past: Past) -> str:
        """Attention behind a cache that is written apart: TensorRT's has one output, and no cache."""
        graph, model = self._graph, self._architecture
        query, key, value = (
            self.by_head(part, heads)
            for part, heads in zip(parts, (model.heads, model.kv_heads, model.kv_heads), strict=True)
        )
        graph.named("Concat", (past.key, key), (past.present_key,), axis=2)
        graph.named("Concat", (past.value, value), (past.present_value,), axis=2)
        mixed = graph.node("Attention", query, past.present_key, past.present_value, mask, scale=scale)
        return self.join_rows(graph.node("Transpose", mixed, perm=(0, 2, 1, 3)), model.heads * model.head_dim)
