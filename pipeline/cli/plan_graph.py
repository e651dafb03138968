"""The graph of a plan on the terminal: a line a node, with what it takes drawn as strokes at its left.

    ●      load
    ├─●    reference
    ● │    export@cpu
    ├─●    quality@cpu
    ●      cost@cpu

Every output runs down in a column of its own, its lane, to the last node that takes it. A node stands in the
lane of an input that ends there, or in a new one; a stroke comes to it from the lanes of its other inputs. A
stroke that passes a lane without touching it takes nothing from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..plan import State
from ..report.layers import reduced
from ..units import show_bytes, show_seconds
from .plan_view import COLOURS, closing_lines

if TYPE_CHECKING:
    from typing import TextIO

    from ..plan import Decision, Plan

LEFT, RIGHT, UP, DOWN = 1, 2, 4, 8


@dataclass(frozen=True)
class Glyphs:
    """What a drawing is made of. strokes: by the directions that meet.  marks: by the state of a node."""

    strokes: Mapping[int, str]
    marks: Mapping[str, str]


def _strokes(across: str, down: str, end: str, right: str, left: str, both: str) -> dict[int, str]:
    """end: three, for a lane that ends to the right, to the left and both ways; then those that go on."""
    ends = {UP | RIGHT: end[0], UP | LEFT: end[1], UP | LEFT | RIGHT: end[2]}
    joins = {UP | DOWN | RIGHT: right, UP | DOWN | LEFT: left, UP | DOWN | LEFT | RIGHT: both}
    return {0: " ", LEFT | RIGHT: across, UP | DOWN: down, **ends, **joins}


DRAWN = Glyphs(
    _strokes("─", "│", "╰╯┴", "├", "┤", "┼"),
    {State.HIT: "●", State.RUN: "○", State.PENDING: "◌", State.BLOCKED: "✗"},
)
ASCII = Glyphs(
    _strokes("-", "|", "'''", "+", "+", "+"),
    {State.HIT: "*", State.RUN: "o", State.PENDING: ".", State.BLOCKED: "x"},
)


@dataclass(frozen=True)
class Line:
    """A node's line. lane: where it stands.  strokes: in every lane the directions that meet there.

    first, last: the lanes between which a stroke runs across.
    """

    node: str
    lane: int
    strokes: Sequence[int]
    first: int
    last: int

    def draw(self, glyphs: Glyphs, mark: str) -> tuple[str, str, str]:
        """What stands left of the node's mark, the mark, and what stands right of it."""
        across = glyphs.strokes[LEFT | RIGHT]
        text = ""
        for lane, directions in enumerate(self.strokes):
            text += mark if lane == self.lane else glyphs.strokes[directions]
            text += across if self.first <= lane < self.last else " "
        place = 2 * self.lane
        return text[:place], text[place], text[place + 1 :].rstrip()


def lines_of(inputs: Mapping[str, Sequence[str]]) -> list[Line]:
    """A line for each node; inputs: node → the nodes it takes, in topological order.

    A node that nothing takes leaves its lane free, but not for the very next one, which would look as if it
    took it.
    """
    waiting = dict.fromkeys(inputs, 0)
    for sources in inputs.values():
        for source in sources:
            waiting[source] += 1
    lanes: list[str | None] = []
    barred: int | None = None
    lines = []
    for name, sources in inputs.items():
        for source in sources:
            waiting[source] -= 1
        taken = {lanes.index(source): waiting[source] == 0 for source in sources}
        lane = _lane(lanes, taken, barred)
        if lane == len(lanes):
            lanes.append(None)
        lines.append(_line(name, lane, lanes, taken))
        for other, ends in taken.items():
            if ends:
                lanes[other] = None
        lanes[lane] = name if waiting[name] else None
        barred = None if waiting[name] else lane
        while lanes and lanes[-1] is None and len(lanes) - 1 != barred:
            lanes.pop()
    return lines


def _lane(lanes: Sequence[str | None], taken: Mapping[int, bool], barred: int | None) -> int:
    """Where a node stands: where an input of it ends, else in the free lane that is nearest to its inputs."""
    ending = [lane for lane, ends in taken.items() if ends]
    if ending:
        return min(ending)
    free = [lane for lane, name in enumerate(lanes) if name is None and lane != barred]
    start = max(taken, default=0)
    return min((*free, len(lanes)), key=lambda lane: (abs(lane - start), lane))


def _line(name: str, lane: int, lanes: Sequence[str | None], taken: Mapping[int, bool]) -> Line:
    first, last = min(lane, *taken, lane), max(lane, *taken, lane)
    strokes = []
    for other, source in enumerate(lanes):
        if other in taken:
            sides = (RIGHT if other < last else 0) | (LEFT if other > first else 0)
            strokes.append(UP | sides | (0 if taken[other] else DOWN))
        elif source is not None:
            strokes.append(UP | DOWN)
        else:
            strokes.append(LEFT | RIGHT if first < other < last else 0)
    return Line(name, lane, strokes, first, last)


def show_graph(plan: Plan, glyphs: Glyphs, width: int | None) -> str:
    """The graph in at most ``width`` columns, without a bound for None; then what a plan ends with."""
    lines = lines_of(reduced({name: tuple(node.inputs.values()) for name, node in plan.graph.nodes.items()}))
    drawn = [line.draw(glyphs, glyphs.marks[plan.decisions[line.node].state]) for line in lines]
    widest = max(sum(map(len, parts)) for parts in drawn)
    names = max(map(len, plan.decisions))
    rows = []
    for line, (before, mark, after) in zip(lines, drawn, strict=True):
        decision = plan.decisions[line.node]
        colour = COLOURS[decision.state]
        told = f"{_cost(decision)}  {plan.graph.nodes[line.node].stage:<18}  {_reason(decision)}"
        parts: list[tuple[str, Mapping[str, Any]]] = [
            (before, {"dim": True}),
            (mark, {"fg": colour}),
            (f"{after:<{widest - len(before) - 1}}  ", {"dim": True}),
            (f"{decision.state.upper():<8} ", {"fg": colour}),
            (f"{line.node:<{names}}  ", {}),
            (told.rstrip(), {"dim": True}),
        ]
        rows.append(_styled(parts, width))
    return "\n".join([*rows, "", *closing_lines(plan)])


def glyphs_for(stream: TextIO) -> Glyphs:
    """Strokes for a terminal that has the letters for them, plain ASCII for everything else."""
    if not stream.isatty():
        return ASCII
    try:
        "".join((*DRAWN.strokes.values(), *DRAWN.marks.values())).encode(stream.encoding)
    except UnicodeEncodeError:
        return ASCII
    return DRAWN


def _cost(decision: Decision) -> str:
    """What a node will take, in columns; empty for one that has nothing to do."""
    found = decision.expected
    seconds, size = (show_seconds(found.seconds), show_bytes(found.max_rss_bytes)) if found else ("", "")
    return f"{seconds:>12}  {size:>8}"


def _reason(decision: Decision) -> str:
    """Why a node is in its state, where that cannot be seen from the drawing."""
    return decision.reason if decision.state in (State.RUN, State.BLOCKED) else ""


def _styled(parts: Sequence[tuple[str, Mapping[str, Any]]], width: int | None) -> str:
    """The parts one after the other, cut where the width ends."""
    room = sum(len(text) for text, _ in parts) if width is None else width
    shown = ""
    for text, style in parts:
        cut = text if len(text) <= room else text[: max(0, room - 1)] + "…" * (room > 0)
        shown += click.style(cut, **style) if cut else ""
        room -= len(cut)
    return shown
