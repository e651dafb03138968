"""Networks of one half: a causal decoder with its cache, and an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...model.families import Linear
from .blocks import BlockWriter, Past
from .graph import ELEMENT_TYPES, GraphBuilder
from .linear import Form, LinearWriter
from .positions import CausalMasks, Rotations, encoder_positions, padding_mask, range_of
from .relative import distances, relative_bias

if TYPE_CHECKING:
    from ...model.families import Architecture
    from .graph import Graph
    from .weights import Weights

PAST = "past_key_values.{layer}.{part}"
PRESENT = "present.{layer}.{part}"
LOGITS_FROM = "logits_from"


def decoder(model: Architecture, weights: Weights, form: Form) -> Graph:
    """One graph for prefill and decoding.

    Inputs: input_ids int64 [batch, sequence]; attention_mask int64 [batch, total], total being past and
    sequence together, 0 for padding on either side; position_ids int64 [batch, sequence]; and for each layer
    past_key_values.N.key and .value, float32 [batch, kv_heads, past, head_dim], where past may be 0.
    Outputs: logits float32 [batch, kept, vocabulary] and present.N.key and .value, which include this step.

    The optional input logits_from int64 [1], 0 unless given, is the first position that logits are computed
    for, counted from the end when negative: -1 spares a prompt's prefill all but the last row of the head.
    """
    graph = GraphBuilder(form.dtype, form.runtime)
    ids = graph.input("input_ids", "int64", ("batch", "sequence"))
    attention_mask = graph.input("attention_mask", "int64", ("batch", "total"))
    positions = graph.input("position_ids", "int64", ("batch", "sequence"))
    cached = ("batch", model.kv_heads, "past", model.head_dim)
    for layer in model.layers:
        for part in ("key", "value"):
            graph.input(PAST.format(layer=layer.index, part=part), form.dtype, cached)
    first = graph.optional_input(LOGITS_FROM, np.zeros(1, np.int64))
    linears = LinearWriter(graph, weights, form)
    blocks = BlockWriter(graph, weights, linears, model, graph.node("Shape", ids))
    with graph.scope("positions"):
        masks = CausalMasks(graph, ids, attention_mask)
        windows = {layer.attention.window: masks.mask(layer.attention.window) for layer in model.layers}
        rotations = Rotations(graph, positions)
        turned = [rotations.rotation(layer.attention.rope or model.rope) for layer in model.layers]
    with graph.scope("embedding"):
        state = embed(graph, linears, model, ids)
        if model.embedding_in is not None:
            rows = linears.linear(blocks.join_rows(state, model.embedding_width), model.embedding_in)
            state = blocks.split_rows(rows, model.hidden)
        state = add_positions(graph, weights, model, state, positions)
        state = blocks.join_rows(state, model.hidden)
    for layer in model.layers:
        past = Past(
            *(PAST.format(layer=layer.index, part=part) for part in ("key", "value")),
            *(PRESENT.format(layer=layer.index, part=part) for part in ("key", "value")),
        )
        with graph.scope(f"layers.{layer.index}"):
            state = blocks.layer(state, layer, windows[layer.attention.window], past, turned[layer.index])
    with graph.scope("head"):
        head(graph, weights, blocks, linears, model, state, first)
    graph.output("logits", "float32", ("batch", "kept", model.vocabulary))
    present = ("batch", model.kv_heads, "total", model.head_dim)
    for layer in model.layers:
        for part in ("key", "value"):
            graph.output(PRESENT.format(layer=layer.index, part=part), form.dtype, present)
    return graph.finish(model.model_type)


def encoder(model: Architecture, weights: Weights, form: Form) -> Graph:
    """Inputs: input_ids, attention_mask and, where the model has several, token_type_ids; each int64 [batch,
    sequence]. Output: last_hidden_state float32 [batch, sequence, hidden].
    """
    graph = GraphBuilder(form.dtype, form.runtime)
    ids = graph.input("input_ids", "int64", ("batch", "sequence"))
    attention_mask = graph.input("attention_mask", "int64", ("batch", "sequence"))
    linears = LinearWriter(graph, weights, form)
    blocks = BlockWriter(graph, weights, linears, model, graph.node("Shape", ids))
    encode(graph, weights, linears, blocks, model, ids, attention_mask)
    return graph.finish(model.model_type)


def encode(
    graph: GraphBuilder,
    weights: Weights,
    linears: LinearWriter,
    blocks: BlockWriter,
    model: Architecture,
    ids: str,
    attention_mask: str,
) -> str:
    """Writes an encoder and makes its result the output last_hidden_state; gives it as [rows, hidden]."""
    with graph.scope("positions"):
        mask = padding_mask(graph, attention_mask)
        if model.relative_bias is not None:
            columns = range_of(graph, graph.node("Shape", ids, start=1, end=2))
            bias = relative_bias(graph, weights, model, distances(graph, columns, columns))
            mask = graph.node("Add", mask, bias)
        positions = encoder_positions(graph, ids, model.position_padding)
    with graph.scope("embedding"):
        state = embed(graph, linears, model, ids)
        if model.token_type_embedding is not None:
            shape = (model.token_types, model.hidden)
            kind = graph.add(weights.floats(model.token_type_embedding, shape))
            if model.token_types > 1:
                kinds = graph.input("token_type_ids", "int64", ("batch", "sequence"))
                kind = graph.node("Gather", kind, kinds)
            state = graph.node("Add", state, kind)
        state = add_positions(graph, weights, model, state, positions)
        state = blocks.join_rows(state, model.hidden)
        if model.embedding_norm is not None:
            state = blocks.norm(state, model.embedding_norm, model.hidden)
    for layer in model.layers:
        with graph.scope(f"layers.{layer.index}"):
            state = blocks.layer(state, layer, mask, None, None)
    if model.final_norm is not None:
        state = blocks.norm(state, model.final_norm, model.hidden)
    rows = (blocks.split_rows(state, model.hidden),)
    if graph.dtype == "float32":
        graph.named("Identity", rows, ("last_hidden_state",))
    else:
        graph.named("Cast", rows, ("last_hidden_state",), to=ELEMENT_TYPES["float32"])
    graph.output("last_hidden_state", "float32", ("batch", "sequence", model.hidden))
    return state


def embedding_table(model: Architecture) -> Linear:
    """The token embedding seen as a matrix [vocabulary, embedding_width]."""
    return Linear(model.embedding, "embedding", model.vocabulary, model.embedding_width)


def embed(graph: GraphBuilder, linears: LinearWriter, model: Architecture, ids: str) -> str:
    """int64 [batch, sequence] → float32 [batch, sequence, embedding_width]."""
    state = linears.embedding(ids, embedding_table(model))
    if model.embedding_scale != 1:
        state = graph.node("Mul", state, graph.scalar(model.embedding_scale))
    return state


def add_positions(
    graph: GraphBuilder, weights: Weights, model: Architecture, state: str, positions: str
) -> str:
    """Adds the position embedding, where there is one, to [batch, sequence, hidden]."""
    if model.position_embedding is None:
        return state
    rows = model.context + model.position_offset
    table = graph.add(weights.floats(model.position_embedding, (rows, model.hidden)))
    if model.position_offset:
        positions = graph.node("Add", positions, graph.scalar(model.position_offset, "int64"))
    return graph.node("Add", state, graph.node("Gather", table, positions))


def head(
    graph: GraphBuilder,
    weights: Weights,
    blocks: BlockWriter,
    linears: LinearWriter,
    model: Architecture,
    state: str,
    first: str,
) -> None:
    """Makes logits of [rows, hidden] and names them; ``first``: see :func:`decoder` on logits_from."""
    if model.final_norm is not None:
        state = blocks.norm(state, model.final_norm, model.hidden)
    if model.embedding_out is not None:
        state = linears.linear(state, model.embedding_out)
    tokens = blocks.split_rows(state, model.embedding_width)
    end = graph.ints(np.iinfo(np.int64).max)
    kept = graph.node("Slice", tokens, first, end, graph.ints(1))
    if model.head_scale != 1:
        kept = graph.node("Mul", kept, graph.scalar(model.head_scale))
    logits = linears.head(kept, model.head or embedding_table(model), tied=model.tied)
    if model.head_bias is not None:
        bias = graph.add(weights.floats(model.head_bias, (1, model.vocabulary)))
        logits = graph.node("Add", logits, bias)
    if graph.dtype != "float32":
        logits = graph.cast(logits, "float32")
    if model.logit_softcap is not None:
        cap = graph.scalar(model.logit_softcap, "float32")
        logits = graph.node("Mul", graph.node("Tanh", graph.node("Div", logits, cap)), cap)
    graph.rename(logits, "logits")
