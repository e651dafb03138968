"""Inline SVG as escaped text: elements, scales with round ticks. It has no styles: the page has them."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fragment(str):
    """Finished markup: it is not escaped again, here or by a template."""

    __slots__ = ()

    def __html__(self) -> str:
        """What a template asks for before it would escape."""
        return self


def tag(name: str, *children: str | None, **attributes: object) -> Fragment:
    """An element; text children and attribute values are escaped, None is left out.

    Attribute names are written as Python can: ``class_``, ``stroke_width``. Numbers are rounded to 0.01.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(
        child if isinstance(child, Fragment) else html.escape(child) for child in children if child
    )
    return Fragment(f"<{name}{shown}>{inner}</{name}>" if inner else f"<{name}{shown}/>")


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def join(parts: Iterable[Fragment]) -> Fragment:
    """Fragments one after the other."""
    return Fragment("".join(parts))


def drawing(
    width: float, height: float, label: str, *children: Fragment, class_: str = "", description: str = ""
) -> Fragment:
    """A drawing of that size in pixels, with ``label`` for those who do not see it, and what it shows."""
    return tag(
        "svg",
        tag("title", label),
        tag("desc", description) if description else None,
        *children,
        class_=f"plot {class_}".strip(),
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Fragment:
    """A straight stroke."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def circle(x: float, y: float, radius: float, class_: str) -> Fragment:
    """A dot."""
    return tag("circle", cx=float(x), cy=float(y), r=float(radius), class_=class_)


def dots(places: Iterable[tuple[float, float]], class_: str) -> Fragment:
    """Many dots as one path of strokes without length, whose round ends are the dots: few bytes a dot."""
    return tag("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in places), class_=f"dots {class_}")


def rectangle(x: float, y: float, width: float, height: float, class_: str, radius: float = 0) -> Fragment:
    """A box; a width below zero is drawn as none."""
    return tag(
        "rect", x=float(x), y=float(y), width=max(0.0, float(width)), height=float(height),
        rx=float(radius) or None, class_=class_,
    )  # fmt: skip


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Fragment:
    """Words at a baseline; anchor: start, middle or end."""
    anchored = anchor if anchor != "start" else None
    return tag("text", content, x=float(x), y=float(y), text_anchor=anchored, class_=class_ or None)


SMALLEST_SPREAD = 1e-300


@dataclass(frozen=True)
class Scale:
    """A straight map from data to pixels; pixels beyond the ends are clamped."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel for a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.stop - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies on the scale."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 4) -> list[float]:
        """About ``count`` round values on the scale: steps of 1, 2, 2.5 or 5 times a power of ten."""
        raw = (self.high - self.low) / max(1, count)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def padded(values: Iterable[float], start: float, stop: float, margin: float = 0.06) -> Scale:
    """A scale that holds all values with a little room; of about one where they all are next to zero."""
    found = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(found), max(found)
    # Below the normal numbers a quarter of a spread is zero, and no tick can be found.
    spread = next((s for s in (high - low, abs(high)) if s > SMALLEST_SPREAD), 1.0)
    return Scale(low - spread * margin, high + spread * margin, start, stop)
