"""Attention with capped scores (Gemma 2, arXiv:2408.00118, section 2), written in plain operators.

ONNX's Attention takes a cap, but onnxruntime up to 1.26 applies it after the mask, which then masks nothing;
1.31 applies it before. Plain operators mean the same in all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...model.families import Architecture
    from .blocks import Past
    from .graph import GraphBuilder


def capped_attention(
    graph: GraphBuilder,
    model: Architecture,
    parts: tuple[str, str, str],
    scale: float,
    softcap: float,
    mask: str,
    past: Past | None,
) -> str:
    """softmax(c·tanh(scale·QKᵀ / c) + mask)·V for query, key and value: [batch, sequence, heads·head_dim].

    Gives [batch, sequence, heads·head_dim]; mask and past are as for :meth:`BlockWriter.attention`.
    """
    query, key, value = parts
    groups, group = model.kv_heads, model.heads // model.kv_heads
    shape = graph.ints(0, 0, groups, group, model.head_dim)
    query = graph.node("Transpose", graph.node("Reshape", query, shape), perm=(0, 2, 3, 1, 4))
    key, value = (_by_head(graph, model, part) for part in (key, value))
    if past is not None:
        graph.named("Concat", (past.key, key), (past.present_key,), axis=2)
        graph.named("Concat", (past.value, value), (past.present_value,), axis=2)
        key, value = past.present_key, past.present_value
    key, value, mask = (
        graph.node("Unsqueeze", part, graph.ints(axis)) for part, axis in ((key, 2), (value, 2), (mask, 1))
    )
    scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=(0, 1, 2, 4, 3)))
    bounded = graph.node("Tanh", graph.node("Mul", scores, graph.scalar(scale / softcap)))
    scores = graph.node("Add", graph.node("Mul", bounded, graph.scalar(softcap)), mask)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    tokens = graph.node("Transpose", mixed, perm=(0, 3, 1, 2, 4))
    return graph.node("Reshape", tokens, graph.ints(0, 0, model.heads * model.head_dim))


def _by_head(graph: GraphBuilder, model: Architecture, part: str) -> str:
    """[batch, sequence, kv_heads·head_dim] → [batch, kv_heads, sequence, head_dim]."""
    shape = graph.ints(0, 0, model.kv_heads, model.head_dim)
    return graph.node("Transpose", graph.node("Reshape", part, shape), perm=(0, 2, 1, 3))
