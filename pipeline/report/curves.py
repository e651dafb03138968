"""Figures with two axes: how latencies are spread, and what each target costs in quality for its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..units import THIN, show, show_bytes, show_delta
from .svg import Fragment, Scale, circle, drawing, line, padded, tag, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WIDTH, PLOT_HEIGHT = 340, 132
LEFT, BOTTOM = 40, 18
ROW_HEIGHT = 17
MARKS = (50, 95)
# The slowest samples of a busy machine would squeeze all others to the left.
SHOWN_PERCENTILE = 99
# Closer points cannot be told apart at this size.
SHOWN_PERCENTS = (*range(0, 99, 2), 99)
TRADE_HEIGHT, TRADE_LEFT = 250, 50
LABEL_HEIGHT, LONGEST_LABEL, LONGEST_SIDE = 13, 30, 14
# More names than these have no room below one another.
MOST_NAMES = 15
CHARACTER_WIDTH, MOST_MARGIN = 6.0, 110


def cumulative(
    label: str, unit: str, sides: Mapping[str, Sequence[float]], context: Sequence[Sequence[float]] = ()
) -> Fragment:
    """Which share of samples is at most how long; sides: name → percentiles 0 to 100.

    The first of two sides is drawn as the reference. context: percentiles of others, faint behind. Below
    stand each side's median, 95th and 99th percentile.
    """
    longest = max(curve[SHOWN_PERCENTILE] for curve in (*sides.values(), *context))
    across = Scale(0, longest * 1.05 or 1.0, LEFT, WIDTH)
    up = Scale(0, 100, PLOT_HEIGHT - BOTTOM, 6)
    parts = []
    for mark in MARKS:
        parts += [
            line(LEFT, up(mark), WIDTH, up(mark), "grid"),
            text(LEFT - 5, up(mark) + 3.5, f"{mark}{THIN}%", "tick", "end"),
        ]
    parts.append(line(LEFT, up(0), WIDTH, up(0), "axis"))
    for tick in across.ticks(4):
        shown = f"{tick:g}{THIN}{unit}" if tick else "0"
        parts.append(text(across(tick), PLOT_HEIGHT - 4, shown, "tick", _anchor(across(tick))))
    parts += [_curve(curve, across, up, "context") for curve in context]
    kinds = ("reference", "artifact") if len(sides) > 1 else ("artifact",)
    said = []
    for row, (kind, (name, curve)) in enumerate(zip(kinds, sides.items(), strict=True)):
        y = PLOT_HEIGHT + 12 + row * ROW_HEIGHT
        numbers = [show(curve[percent], unit) for percent in (50, 95, 99)]
        shown = " · ".join(
            f"p{percent} {number}" for percent, number in zip((50, 95, 99), numbers, strict=True)
        )
        parts += [
            _curve(curve, across, up, kind),
            line(LEFT, y - 4, LEFT + 12, y - 4, f"median {kind}"),
            text(LEFT + 18, y, shortened(name, LONGEST_SIDE), "faint small"),
            text(WIDTH, y, shown, "small", "end"),
        ]
        said.append(f"{name}: {shown}")
    height = PLOT_HEIGHT + len(sides) * ROW_HEIGHT
    return drawing(WIDTH, height, f"{label}: share of samples by time", *parts, description="; ".join(said))


def _curve(curve: Sequence[float], across: Scale, up: Scale, kind: str) -> Fragment:
    shown = (percent for percent in SHOWN_PERCENTS if across.holds(curve[percent]))
    points = [(across(curve[percent]), up(percent)) for percent in shown]
    path = " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{path}", class_=f"curve {kind}")


@dataclass(frozen=True)
class Traded:
    """A target to choose: its size, and the change of its quality with the interval of that.

    is_front: none of the others is better in one of the two and no worse in the other.
    """

    name: str
    status: str
    size_bytes: float
    delta: float
    low: float | None
    high: float | None
    is_front: bool = False


def trade(targets: Sequence[Traded], title: str, comparison: str) -> Fragment:
    """Each target as a dot: bytes to the right, change of quality upwards, with its interval.

    A line runs along the front, and names of the others are faint; of very many, the front alone has names.
    """
    bounds = [bound for t in targets for bound in (t.delta, t.low, t.high) if bound is not None]
    beaten = [_width(target) for target in targets if not target.is_front]
    right = WIDTH - min(max(beaten, default=0.0), MOST_MARGIN)
    across = Scale(0, max(target.size_bytes for target in targets) * 1.06, TRADE_LEFT, right)
    up = padded([0.0, *bounds], TRADE_HEIGHT - 24, 8)
    parts = [line(TRADE_LEFT, up(0), WIDTH, up(0), "zero")]
    for tick in up.ticks(4):
        parts += [
            line(TRADE_LEFT, up(tick), WIDTH, up(tick), "grid"),
            text(TRADE_LEFT - 6, up(tick) + 3.5, show_delta(tick, "", comparison), "tick", "end"),
        ]
    for tick in across.ticks(4):
        shown = show_bytes(tick) if tick else "0"
        parts.append(text(across(tick), TRADE_HEIGHT - 6, shown, "tick", _anchor(across(tick))))
    parts += _front([target for target in targets if target.is_front], across, up)
    ordered = sorted(targets, key=lambda target: -target.delta)
    named = [target for target in ordered if target.is_front or len(ordered) <= MOST_NAMES][:MOST_NAMES]
    places = dict(zip(map(id, named), _apart([up(target.delta) + 4 for target in named]), strict=True))
    for target in ordered:
        parts += _dot(target, across(target.size_bytes), up, places.get(id(target)))
    said = (
        f"{target.name}: {show_bytes(target.size_bytes)}, {show_delta(target.delta, '', comparison)}"
        for target in targets
    )
    label = f"{title} against size"
    return drawing(WIDTH, TRADE_HEIGHT, label, *parts, description="; ".join(said))


def _front(targets: Sequence[Traded], across: Scale, up: Scale) -> Iterator[Fragment]:
    """The stairs that nothing lies below: from one target to the next larger one, and on to the edge."""
    ordered = sorted(targets, key=lambda target: target.size_bytes)
    if len(ordered) > 1:
        steps = [f"H{across(each.size_bytes):.1f}V{up(each.delta):.1f}" for each in ordered[1:]]
        start = f"M{across(ordered[0].size_bytes):.1f} {up(ordered[0].delta):.1f}"
        yield tag("path", d=f"{start}{''.join(steps)}H{WIDTH}", class_="front")


def _dot(target: Traded, x: float, up: Scale, place: float | None) -> Iterator[Fragment]:
    """place: the baseline of its name; None where it has none."""
    y = up(target.delta)
    # Nothing lies to the left of the front, so its names go there; the others have what is to the right.
    room = x - 9 - TRADE_LEFT if target.is_front else x + 9 + _width(target) - WIDTH
    is_left = room > _width(target) if target.is_front else room > 0
    beside, anchor = (x - 9, "end") if is_left else (x + 9, "start")
    if place is not None and place - y > LABEL_HEIGHT:
        yield line(x, y, beside, place - 4, "grid")
    if target.low is not None and target.high is not None:
        yield line(x, up(target.low), x, up(target.high), f"whisker {target.status}")
    yield circle(x, y, 3.8, f"dot {target.status}")
    if place is not None:
        shade = "small halo" if target.is_front else "small halo faint"
        yield text(beside, place, shortened(target.name, LONGEST_LABEL), shade, anchor)


def _width(target: Traded) -> float:
    """About how wide a target's name is."""
    return len(shortened(target.name, LONGEST_LABEL)) * CHARACTER_WIDTH


def _apart(places: Sequence[float]) -> list[float]:
    """Baselines in ascending order, moved down as far as labels need, and up again from the lower end."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + LABEL_HEIGHT) if moved else place)
    highest = TRADE_HEIGHT - 28.0
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], highest)
        highest = moved[index] - LABEL_HEIGHT
    return moved


def _anchor(x: float) -> str:
    """How a label at the right edge stays inside."""
    return "end" if x > WIDTH - 16 else "middle"


def shortened(name: str, longest: int) -> str:
    """A name that has room in a figure."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
