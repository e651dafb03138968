"""Networks of two halves: a graph that reads the source once, and one that writes the target step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....artifacts.errors import StageError
from .blocks import BlockWriter, Cross, Past
from .graph import GraphBuilder
from .linear import Form, LinearWriter
from .networks import LOGITS_FROM, PAST, PRESENT, add_positions, embed, encode, head
from .positions import padding_mask, range_of
from .relative import distances, relative_bias

if TYPE_CHECKING:
    from ...model.families import Architecture
    from .graph import Graph
    from .weights import Weights

CROSS = "cross_key_values.{layer}.{part}"
PARTS = ("key", "value")


def source_graph(model: Architecture, weights: Weights, form: Form) -> Graph:
    """The graph of the source, run once.

    Inputs: input_ids and attention_mask, int64 [batch, source]. Outputs: last_hidden_state float32 [batch,
    source, hidden] and, for each layer of the decoder, cross_key_values.N.key and .value, float32 [batch,
    kv_heads, source, head_dim]: what the decoder attends to, so that no step computes it again.
    """
    graph = GraphBuilder(form.dtype, form.runtime)
    ids = graph.input("input_ids", "int64", ("batch", "source"))
    attention_mask = graph.input("attention_mask", "int64", ("batch", "source"))
    linears = LinearWriter(graph, weights, form)
    shape = graph.node("Shape", ids)
    half = _encoder(model)
    blocks = BlockWriter(graph, weights, linears, half, shape)
    state = encode(graph, weights, linears, blocks, half, ids, attention_mask)
    crossing = BlockWriter(graph, weights, linears, model, shape)
    for layer in model.layers:
        if layer.cross_attention is None:
            raise StageError(f"layer {layer.index} of the decoder does not attend to the source")
        for part, linear in zip(PARTS, layer.cross_attention.inputs[1:], strict=True):
            with graph.scope(f"cross.{layer.index}"):
                made = crossing.cross_part(state, linear)
            graph.rename(made, CROSS.format(layer=layer.index, part=part))
    for layer in model.layers:
        for part in PARTS:
            graph.output(CROSS.format(layer=layer.index, part=part), form.dtype, _cross_shape(model))
    return graph.finish(f"{model.model_type}-encoder")


def target_graph(model: Architecture, weights: Weights, form: Form) -> Graph:
    """The graph of the target, for prefill and decoding.

    Inputs: input_ids int64 [batch, sequence], the next tokens of the target; encoder_attention_mask int64
    [batch, source]; cross_key_values.N.key and .value as :func:`source_graph` gives them;
    past_key_values.N.key and .value, float32 [batch, kv_heads, past, head_dim], where past may be 0; and the
    optional logits_from (see :func:`ingot.stages.export.onnx.networks.decoder`). Outputs: logits and
    present.N.key and .value.

    Targets begin together and end where they end, so nothing of them is masked and positions follow from the
    length of the past.
    """
    graph = GraphBuilder(form.dtype, form.runtime)
    ids = graph.input("input_ids", "int64", ("batch", "sequence"))
    source_mask = graph.input("encoder_attention_mask", "int64", ("batch", "source"))
    cached = ("batch", model.kv_heads, "past", model.head_dim)
    for layer in model.layers:
        for part in PARTS:
            graph.input(CROSS.format(layer=layer.index, part=part), form.dtype, _cross_shape(model))
    for layer in model.layers:
        for part in PARTS:
            graph.input(PAST.format(layer=layer.index, part=part), form.dtype, cached)
    first = graph.optional_input(LOGITS_FROM, np.zeros(1, np.int64))
    linears = LinearWriter(graph, weights, form)
    blocks = BlockWriter(graph, weights, linears, model, graph.node("Shape", ids))
    with graph.scope("positions"):
        before = graph.node("Shape", PAST.format(layer=0, part="key"), start=2, end=3)
        sequence = graph.node("Shape", ids, start=1, end=2)
        total = graph.node("Add", before, sequence)
        queries = range_of(graph, total, before)
        between = distances(graph, queries, range_of(graph, total))
        mask = _causal_mask(graph, between)
        if model.relative_bias is not None:
            mask = graph.node("Add", mask, relative_bias(graph, weights, model, between))
        cross_mask = padding_mask(graph, source_mask, sequence)
    with graph.scope("embedding"):
        state = embed(graph, linears, model, ids)
        state = add_positions(graph, weights, model, state, queries)
        state = blocks.join_rows(state, model.hidden)
        if model.embedding_norm is not None:
            state = blocks.norm(state, model.embedding_norm, model.hidden)
    for layer in model.layers:
        past, present, cross = (
            [name.format(layer=layer.index, part=part) for part in PARTS] for name in (PAST, PRESENT, CROSS)
        )
        with graph.scope(f"layers.{layer.index}"):
            state = blocks.layer(
                state, layer, mask, Past(*past, *present), None, Cross(cross[0], cross[1], cross_mask)
            )
    with graph.scope("head"):
        head(graph, weights, blocks, linears, model, state, first)
    graph.output("logits", "float32", ("batch", "kept", model.vocabulary))
    for layer in model.layers:
        for part in PARTS:
            shape = ("batch", model.kv_heads, "total", model.head_dim)
            graph.output(PRESENT.format(layer=layer.index, part=part), form.dtype, shape)
    return graph.finish(f"{model.model_type}-decoder")


def _encoder(model: Architecture) -> Architecture:
    if model.encoder is None:
        raise StageError(f"a {model.model_type} network has no encoder")
    return model.encoder


def _cross_shape(model: Architecture) -> tuple[str | int, ...]:
    return ("batch", model.kv_heads, "source", model.head_dim)


def _causal_mask(graph: GraphBuilder, between: str) -> str:
    """float32 [1, 1, sequence, total] for distances int64 [sequence, total]: no key behind the query."""
    is_seen = graph.node("LessOrEqual", between, graph.scalar(0, "int64"))
    mask = graph.node("Where", is_seen, graph.scalar(0.0), graph.masked())
    return graph.node("Unsqueeze", mask, graph.ints(0, 1))
