"""Relative positions of T5: biases on the scores that depend on the distance from query to key alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...model.families import Architecture, RelativeBias
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


def buckets(bias: RelativeBias) -> npt.NDArray[np.int64]:
    """The bucket of each distance from -max_distance to max_distance: int64 [2 max_distance + 1].

    Where both directions are seen, keys behind the query and keys before it have half of the buckets each;
    otherwise all keys behind the query, which are never attended to, are at distance 0. Half of a direction's
    buckets hold a distance each; from there, the bucket is exact + (count - exact) log(d / exact) /
    log(max / exact), rounded down. Computed in float32, as in the reference implementations, which decides
    at the edges.
    """
    distance = np.arange(-bias.max_distance, bias.max_distance + 1)
    count, offset = bias.buckets, np.zeros(len(distance), np.int64)
    if bias.both_directions:
        count //= 2
        offset = np.where(distance > 0, count, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(bias.max_distance / exact)) * np.float32(count - exact)
    far = np.minimum(exact + steps.astype(np.int64), count - 1)
    return np.asarray(offset + np.where(distance < exact, distance, far), np.int64)
