"""Relative positions of T5: biases on the scores that depend on the distance from query to key alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...model.positions import buckets

if TYPE_CHECKING:
    from ...model.families import Architecture
    from .graph import GraphBuilder
    from .weights import Weights


def distances(graph: GraphBuilder, queries: str, keys: str) -> str:
    """Key less query for int64 [sequence] and [total]: int64 [sequence, total]."""
    columns = graph.node("Unsqueeze", keys, graph.ints(0))
    return graph.node("Sub", columns, graph.node("Unsqueeze", queries, graph.ints(1)))


def relative_bias(graph: GraphBuilder, weights: Weights, model: Architecture, between: str) -> str:
    """The biases for distances int64 [sequence, total]: float32 [1, heads, sequence, total].

    All distances from the longest one on share a bucket, so the buckets are a table and nothing is computed
    from positions while the model runs.
    """
    bias = model.relative_bias
    assert bias is not None  # noqa: S101 - callers ask for it where there is one
    longest = bias.max_distance
    side = "both" if bias.both_directions else "past"
    table = graph.add(weights.floats(bias.table, (bias.buckets, model.heads)))
    numbers = graph.array(f"buckets({bias.buckets},{longest},{side})", buckets(bias))
    by_distance = graph.node("Gather", table, numbers)
    clipped = graph.node("Clip", between, graph.scalar(-longest, "int64"), graph.scalar(longest, "int64"))
    places = graph.node("Add", clipped, graph.scalar(longest, "int64"))
    found = graph.node("Gather", by_distance, places)
    return graph.node("Unsqueeze", graph.node("Transpose", found, perm=(2, 0, 1)), graph.ints(0))
