"""A sweep as curves: what a larger batch gives in tokens a second, and what it costs in latency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..units import THIN, show, significant
from .svg import Fragment, Scale, circle, drawing, line, tag, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..measurements import SweepCell

WIDTH, PLOT_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 210, 52, 14, 16, 32
ROW_HEIGHT = 17
# Strokes that are told apart without colour: see `.l0` to `.l3` in style.css.
STROKES = 4
# Room around the outermost points, as a factor.
MARGIN = 1.18
STEPS = (1, 2, 5)
# A batch's number stands above its dot unless a whisker goes there.
ABOVE, BESIDE = 7.0, 6.0

Point = tuple[int, float, float, float]


def sweep_lines(cells: Sequence[SweepCell], side: str, metric: str, base: str | None) -> Fragment | None:
    """Tokens a second across, latency upwards, both by ratios: a line a sequence, a dot a batch, with its
    number; dots are medians and whiskers reach the 95th percentile. ``base``'s lines are faint behind.

    None where no sequence has two batches, for one point is no curve.
    """
    curves = _curves(cells, side, metric)
    if not any(len(points) > 1 for points in curves.values()):
        return None
    behind = _curves(cells, base, metric) if base else {}
    every = [point for points in (*curves.values(), *behind.values()) for point in points]
    across = _logarithmic([rate for _, rate, _, _ in every], LEFT, WIDTH - RIGHT)
    up = _logarithmic([ms for _, _, p50, p95 in every for ms in (p50, p95)], PLOT_HEIGHT - BOTTOM, TOP)
    parts = list(_axes(across, up))
    for points in behind.values():
        parts += _curve(points, across, up, "context")
    said = []
    for number, (sequence, points) in enumerate(curves.items()):
        parts += _curve(points, across, up, f"artifact l{number % STROKES}")
        parts += _dots(points, across, up)
        y = PLOT_HEIGHT + 12 + number * ROW_HEIGHT
        batch, rate, p50, p95 = max(points, key=lambda point: point[1])
        shown = f"batch {batch}: {show(p50, 'ms')}, p95 {show(p95, 'ms')}, {significant(rate)}/s"
        parts += [
            tag("path", d=f"M0 {y - 4}H22", class_=f"curve artifact l{number % STROKES}"),
            text(28, y, f"{sequence} tokens", "small"),
            text(WIDTH, y, shown, "small", "end"),
        ]
        said.append(f"{sequence} tokens: " + "; ".join(_told(point) for point in points))
    height = PLOT_HEIGHT + len(curves) * ROW_HEIGHT
    what = "prefill" if metric == "prefill_ms" else "one decoding step"
    label = f"{side}: latency of {what} against tokens a second, by batch and sequence"
    return drawing(WIDTH, height, label, *parts, description=". ".join(said))


def _curves(cells: Sequence[SweepCell], side: str, metric: str) -> dict[int, list[Point]]:
    """Sequence → its points by batch: batch, tokens a second, median and 95th percentile in ms."""
    found: dict[int, list[Point]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.sequence, cell.batch)):
        times, rate = cell.sides.get(side, {}).get(metric), cell.tokens_per_second(side, metric)
        if times is not None and rate is not None:
            found.setdefault(cell.sequence, []).append(
                (cell.batch, rate, times.p50, max(times.p95, times.p50))
            )
    return found


def _logarithmic(values: Sequence[float], start: float, stop: float) -> Scale:
    """A scale of the logarithms of positive values."""
    low, high = min(values) / MARGIN, max(values) * MARGIN
    return Scale(math.log10(low), math.log10(high), start, stop)


def _ticks(scale: Scale) -> list[float]:
    """Round values on a scale of logarithms: 1, 2, 5 of each power of ten, or tens where those are many."""
    powers = range(math.floor(scale.low), math.ceil(scale.high) + 1)
    many = scale.high - scale.low > len(STEPS) - 1
    values = [step * 10.0**power for power in powers for step in (STEPS[:1] if many else STEPS)]
    return [value for value in values if scale.holds(math.log10(value))]


def _axes(across: Scale, up: Scale) -> Iterator[Fragment]:
    yield text(0, TOP - 7, "latency", "faint small")
    yield text(WIDTH, PLOT_HEIGHT - 2, "tokens a second", "faint small", "end")
    for value in _ticks(up):
        y = up(math.log10(value))
        yield line(LEFT, y, WIDTH, y, "grid")
        yield text(LEFT - 6, y + 3.5, f"{value:g}{THIN}ms", "tick", "end")
    for value in _ticks(across):
        x = across(math.log10(value))
        yield line(x, TOP, x, PLOT_HEIGHT - BOTTOM, "grid")
        yield text(x, PLOT_HEIGHT - BOTTOM + 14, _short(value), "tick", "middle")
    yield line(LEFT, PLOT_HEIGHT - BOTTOM, WIDTH, PLOT_HEIGHT - BOTTOM, "axis")


def _curve(points: Sequence[Point], across: Scale, up: Scale, kind: str) -> Iterator[Fragment]:
    places = (f"{across(math.log10(rate)):.1f} {up(math.log10(p50)):.1f}" for _, rate, p50, _ in points)
    yield tag("path", d=f"M{' '.join(places)}", class_=f"curve {kind}")


def _dots(points: Sequence[Point], across: Scale, up: Scale) -> Iterator[Fragment]:
    for batch, rate, p50, p95 in points:
        x, y, top = across(math.log10(rate)), up(math.log10(p50)), up(math.log10(p95))
        yield line(x, y, x, top, "whisker")
        yield line(x - 3, top, x + 3, top, "whisker")
        yield circle(x, y, 3.4, "dot")
        is_whiskered = y - top > ABOVE
        place = (x - BESIDE, y + 4, "end") if is_whiskered else (x, min(y, top) - ABOVE, "middle")
        yield text(place[0], place[1], str(batch), "small halo", place[2])


def _told(point: Point) -> str:
    batch, rate, p50, p95 = point
    return f"batch {batch} {show(p50, 'ms')}, p95 {show(p95, 'ms')}, {significant(rate)} tokens/s"


def _short(value: float) -> str:
    """A round number as an axis has room for it."""
    for size, word in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{THIN}{word}"
    return f"{value:g}"
