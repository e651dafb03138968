"""Figures of pruning: zeros and widths by role and layer, and the influence of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..units import THIN, show_count, significant
from .figures import Figure
from .heat import LEVELS, layer_grid
from .svg import Fragment, Scale, drawing, line, rectangle, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .pruned import Influence, PruneReport, WidthChange, Zeros

R = TypeVar("R", "Zeros", "WidthChange")

WIDTH, TOP, HEIGHT, FOOT, GUTTER = 340, 18, 96, 32, 44
# With more layers than this, a number below every bar would run into the next.
MOST_NUMBERED = 12
WIDEST = 22.0


def figures_of(prunings: Sequence[PruneReport]) -> Iterator[Figure]:
    """Where zeros are, what widths are left, and what chose layers."""
    for each in prunings:
        if each.zeros:
            yield Figure(f"{each.node}: zeros", _zeros(each.zeros), "in %")
        if each.widths:
            yield Figure(f"{each.node}: widths that are left", _widths(each.widths))
        if each.influence:
            yield Figure(f"{each.node}: influence of layers", influence_bars(each.influence))


def influence_bars(layers: Sequence[Influence]) -> Fragment:
    """A bar a layer, those that went in another colour."""
    highest = max(each.influence for each in layers) or 1.0
    scale = Scale(0, highest, 0, HEIGHT)
    pitch = (WIDTH - GUTTER) / len(layers)
    wide, bottom = min(WIDEST, 0.8 * pitch), TOP + HEIGHT
    parts = [
        text(0, TOP + 4, significant(highest, 2), "faint small"),
        text(0, bottom, "0", "faint small"),
        line(GUTTER, bottom, WIDTH, bottom, "axis"),
    ]
    for place, each in enumerate(layers):
        middle, tall = GUTTER + (place + 0.5) * pitch, max(0.0, scale(each.influence))
        kind = "bar added" if each.dropped else "bar artifact"
        parts.append(rectangle(middle - wide / 2, bottom - tall, wide, tall, kind, 2))
        if len(layers) <= MOST_NUMBERED or place in (0, len(layers) - 1):
            parts.append(text(middle, bottom + 13, str(each.layer), "faint small", "middle"))
    parts += [
        rectangle(GUTTER, bottom + 20, 8, 8, "bar artifact", 2),
        text(GUTTER + 12, bottom + 28, "stays", "small"),
        rectangle(GUTTER + 92, bottom + 20, 8, 8, "bar added", 2),
        text(GUTTER + 104, bottom + 28, "goes", "small"),
    ]
    said = "; ".join(
        f"layer {each.layer}: {significant(each.influence, 3)}{', goes' if each.dropped else ''}"
        for each in layers
    )
    label = "How far each layer turns its input: one less the mean cosine"
    return drawing(WIDTH, bottom + FOOT, label, *parts, description=said)


def _zeros(found: Sequence[Zeros]) -> Fragment:
    rows = _rows(found)
    ends = {role: f"mean {_percent(sum(z.share for z in row) / len(row))}" for role, row in rows.items()}
    return layer_grid(
        rows, ends, lambda each: _shade(each.share), lambda each: f"{100 * each.share:.0f}",
        "Share of zeros, in %, by role and layer",
    )  # fmt: skip


def _widths(found: Sequence[WidthChange]) -> Fragment:
    rows = _rows(found)
    ends = {role: f"{show_count(row[0].before)} → {show_count(row[0].after)}" for role, row in rows.items()}
    return layer_grid(
        rows, ends, lambda each: _shade(each.after / each.before), lambda each: show_count(each.after),
        "Widths that are left, by kind and layer",
    )  # fmt: skip


def _rows(found: Sequence[R]) -> dict[str, list[R]]:
    rows: dict[str, list[R]] = {}
    for each in found:
        rows.setdefault(each.role, []).append(each)
    return rows


def _shade(share: float) -> int:
    return max(0, min(LEVELS - 1, int(share * LEVELS)))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}{THIN}%"
