"""The figure of a graph: a box for each node with its time, its memory and what is, or was, done with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..units import show_bytes, show_seconds
from .layers import Placement, place, reduced
from .svg import Fragment, Scale, drawing, rectangle, tag, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import NodeReport

NARROWEST, WIDEST, BOX_HEIGHT = 154, 330, 62
# Of a letter: about so wide is the name, in bold, and what is written small.
NAME_WIDTH, SMALL_WIDTH = 6.9, 5.7
PADDING = 12
LAYER_GAP = 54
MARGIN = 2
WORDS = {"hit": "cached", "built": "built", "failed": "failed", "blocked": "blocked"}


@dataclass(frozen=True)
class Box:
    """A node as it is drawn.

    takes: the nodes whose outputs it takes.  state: the class of its style; word: what is called so.
    seconds: how long its stroke is, beside those of the others.  cost: what is said of time and memory.
    told: what a pointer that rests on it is told.
    """

    name: str
    stage: str
    takes: tuple[str, ...]
    state: str
    word: str
    seconds: float | None
    cost: str
    told: str

    @property
    def lines(self) -> tuple[str, str]:
        """Its name, and below it its stage; of a cell of a matrix, the values that make it that cell."""
        head, bracket, cell = self.name.partition("[")
        return (head, cell.rstrip("]").replace(",", ", ")) if bracket else (self.name, self.stage)


def boxes_of(nodes: Iterable[NodeReport]) -> list[Box]:
    """The nodes of a run, with the time and memory that their outputs cost."""
    return [
        Box(
            node.name,
            node.stage,
            tuple(node.inputs.values()),
            node.state,
            WORDS.get(node.state, node.state),
            node.seconds,
            cost_of(node.seconds, node.max_rss_bytes),
            f"{node.name} ({node.stage}): {node.reason}",
        )
        for node in nodes
    ]


def cost_of(seconds: float | None, max_rss_bytes: int | None) -> str:
    """Time and memory in a few words, of those that are known."""
    parts = [show_seconds(seconds)] if seconds is not None else []
    return " · ".join([*parts, *([show_bytes(max_rss_bytes)] if max_rss_bytes else [])])


def dag(boxes: Sequence[Box]) -> Fragment:
    """The drawing of a graph, for a page."""
    width, height, parts = arranged(boxes)
    return drawing(width, height, f"The graph of {len(boxes)} nodes", *parts, class_="dag")


def arranged(boxes: Sequence[Box]) -> tuple[float, float, list[Fragment]]:
    """Width, height and parts of a drawing in which the boxes stand in layers from left to right.

    An input that also comes to a box by way of another is not drawn twice.
    """
    placed = place(reduced({box.name: box.takes for box in boxes}), BOX_HEIGHT)
    wide = _width(boxes)
    left = {name: MARGIN + layer * (wide + LAYER_GAP) for name, layer in placed.depth.items()}
    slowest = max((box.seconds or 0 for box in boxes), default=0)
    drawn = [_box(box, left[box.name], MARGIN + placed.middle[box.name], wide, slowest) for box in boxes]
    width = max(left.values(), default=0) + wide + MARGIN
    return width, placed.height + 2 * MARGIN, [*_edges(placed, left, wide), *drawn]


def _width(boxes: Iterable[Box]) -> int:
    """Of every box: what the longest of their lines needs, within bounds."""
    needed: list[float] = [NARROWEST]
    for box in boxes:
        name, detail = box.lines
        cost = f"{box.cost}  {box.word}"
        needed += [len(name) * NAME_WIDTH, len(detail) * SMALL_WIDTH, len(cost) * SMALL_WIDTH + PADDING]
    return round(min(WIDEST, max(needed) + 2 * PADDING))


def _edges(placed: Placement, left: dict[str, int], wide: int) -> list[Fragment]:
    return [
        _edge(left[source] + wide, wide, [MARGIN + y for y in middles])
        for (source, _), middles in placed.paths.items()
    ]


def _edge(start: float, wide: int, middles: Sequence[float]) -> Fragment:
    """A curve between layers, and a straight line past the boxes of a layer on the way."""
    path = f"M{start:.1f} {middles[0]:.1f}"
    x = start
    for index, y in enumerate(middles[1:], start=1):
        bend = x + LAYER_GAP / 2
        path += f" C{bend:.1f} {middles[index - 1]:.1f} {bend:.1f} {y:.1f} {x + LAYER_GAP:.1f} {y:.1f}"
        x += LAYER_GAP
        if index < len(middles) - 1:
            x += wide
            path += f" H{x:.1f}"
    return tag("path", d=path, class_="edge")


def _box(box: Box, x: float, middle: float, wide: int, slowest: float) -> Fragment:
    y = middle - BOX_HEIGHT / 2
    room = wide - 2 * PADDING
    name, detail = box.lines
    inner = Scale(0, slowest or 1, 0, room)
    return tag(
        "g",
        tag("title", box.told),
        rectangle(x, y, wide, BOX_HEIGHT, "box", 5),
        text(x + PADDING, y + 19, _cut(name, room / NAME_WIDTH), "name"),
        text(x + PADDING, y + 34, _cut(detail, room / SMALL_WIDTH), "faint small"),
        text(x + PADDING, y + 49, box.cost, "small figures"),
        text(x + wide - PADDING, y + 49, box.word, "state small", "end"),
        rectangle(x + PADDING, y + BOX_HEIGHT - 7, inner(box.seconds or 0), 2.5, "time", 1),
        class_=f"node {box.state}",
    )


def _cut(words: str, letters: float) -> str:
    return words if len(words) <= letters else words[: int(letters) - 1] + "…"
