"""The figure of the graph: a box for each node with its time, its peak memory and whether it was a hit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import show_bytes, show_seconds
from .layers import place
from .svg import Fragment, Scale, drawing, rectangle, tag, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import NodeReport

BOX_WIDTH, BOX_HEIGHT = 178, 62
LAYER_GAP = 54
MARGIN = 2
WORDS = {"hit": "cached", "built": "built", "failed": "failed", "blocked": "blocked"}
LONGEST_NAME = 23


def dag(nodes: Sequence[NodeReport]) -> Fragment:
    """The nodes in layers from left to right, with the time and memory that their outputs cost.

    An input that also comes to a node by way of another input is not drawn twice.
    """
    placed = place(_edges(nodes), BOX_HEIGHT)
    left = {name: MARGIN + layer * (BOX_WIDTH + LAYER_GAP) for name, layer in placed.depth.items()}
    slowest = max((node.seconds or 0 for node in nodes), default=0)
    edges = [
        _edge(left[source] + BOX_WIDTH, [MARGIN + y for y in middles])
        for (source, _), middles in placed.paths.items()
    ]
    boxes = [_box(node, left[node.name], MARGIN + placed.middle[node.name], slowest) for node in nodes]
    width = max(left.values(), default=0) + BOX_WIDTH + MARGIN
    label = f"The graph of {len(nodes)} nodes"
    return drawing(width, placed.height + 2 * MARGIN, label, *edges, *boxes, class_="dag")


def _edges(nodes: Sequence[NodeReport]) -> dict[str, list[str]]:
    """Node → the nodes it takes, without those that another of them descends from."""
    above: dict[str, set[str]] = {}
    kept = {}
    for node in nodes:
        sources = [source for source in dict.fromkeys(node.inputs.values()) if source in above]
        beyond = set().union(*(above[source] for source in sources))
        kept[node.name] = [source for source in sources if source not in beyond]
        above[node.name] = beyond.union(sources)
    return kept


def _edge(start: float, middles: Sequence[float]) -> Fragment:
    """A curve between layers, and a straight line past the boxes of a layer on the way."""
    path = f"M{start:.1f} {middles[0]:.1f}"
    x = start
    for index, y in enumerate(middles[1:], start=1):
        bend = x + LAYER_GAP / 2
        path += f" C{bend:.1f} {middles[index - 1]:.1f} {bend:.1f} {y:.1f} {x + LAYER_GAP:.1f} {y:.1f}"
        x += LAYER_GAP
        if index < len(middles) - 1:
            x += BOX_WIDTH
            path += f" H{x:.1f}"
    return tag("path", d=path, class_="edge")


def _box(node: NodeReport, x: float, middle: float, slowest: float) -> Fragment:
    y = middle - BOX_HEIGHT / 2
    name = node.name if len(node.name) <= LONGEST_NAME else node.name[: LONGEST_NAME - 1] + "…"
    cost = [show_seconds(node.seconds)] if node.seconds is not None else []
    if node.max_rss_bytes:
        cost.append(show_bytes(node.max_rss_bytes))
    inner = Scale(0, slowest or 1, 0, BOX_WIDTH - 24)
    return tag(
        "g",
        tag("title", f"{node.name} ({node.stage}): {node.reason}"),
        rectangle(x, y, BOX_WIDTH, BOX_HEIGHT, "box", 5),
        text(x + 12, y + 19, name, "name"),
        text(x + 12, y + 34, node.stage, "faint small"),
        text(x + 12, y + 49, " · ".join(cost), "small figures"),
        text(x + BOX_WIDTH - 12, y + 49, WORDS.get(node.state, node.state), "state small", "end"),
        rectangle(x + 12, y + BOX_HEIGHT - 7, inner(node.seconds or 0), 2.5, "time", 1),
        class_=f"node {node.state}",
    )
