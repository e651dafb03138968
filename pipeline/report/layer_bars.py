"""The figure of each layer's output error: what the method left, before what plain rounding would have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import THIN, significant
from .svg import Fragment, Scale, drawing, line, rectangle, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .parts import LayerError

WIDTH, TOP, HEIGHT, FOOT = 340, 18, 96, 32
GUTTER = 34
# With more layers than this, a number below every bar would run into the next.
MOST_NUMBERED = 12
# A bar wider than this says no more.
WIDEST = 22.0


def layer_bars(errors: Sequence[LayerError]) -> Fragment:
    """Layers across; the wide bar is plain rounding, the narrow one in it what the method left, in %."""
    highest = max(max(error.error, error.nearest) for error in errors) or 1.0
    scale = Scale(0, highest, 0, HEIGHT)
    pitch = (WIDTH - GUTTER) / len(errors)
    wide = min(WIDEST, 0.8 * pitch)
    bottom = TOP + HEIGHT
    parts = [
        text(0, TOP + 4, f"{significant(100 * highest, 2)}{THIN}%", "faint small"),
        text(0, bottom, "0", "faint small"),
        line(GUTTER, bottom, WIDTH, bottom, "axis"),
    ]
    said = []
    for place, error in enumerate(errors):
        middle = GUTTER + (place + 0.5) * pitch
        parts += _bars(middle, wide, scale(error.nearest), scale(error.error), bottom)
        if len(errors) <= MOST_NUMBERED or place in (0, len(errors) - 1):
            parts.append(text(middle, bottom + 13, error.layer, "faint small", "middle"))
        numbers = (significant(100 * each, 3) for each in (error.error, error.nearest))
        said.append("layer {}: {} %, plain rounding {} %".format(error.layer, *numbers))
    parts += [
        rectangle(GUTTER, bottom + 20, 8, 8, "bar artifact", 2),
        text(GUTTER + 12, bottom + 28, "this method", "small"),
        rectangle(GUTTER + 92, bottom + 20, 8, 8, "bar saved", 2),
        text(GUTTER + 104, bottom + 28, "rounding to nearest", "small"),
    ]
    label = "Error of each layer's outputs on the calibration text, in %"
    return drawing(WIDTH, bottom + FOOT, label, *parts, description="; ".join(said))


def _bars(middle: float, wide: float, nearest: float, found: float, bottom: float) -> Iterator[Fragment]:
    yield rectangle(middle - wide / 2, bottom - nearest, wide, nearest, "bar saved", 2)
    narrow = wide / 2
    yield rectangle(middle - narrow / 2, bottom - found, narrow, found, "bar artifact", 2)
