"""The figures of a report: intervals against limits, sizes, widths, repeats of timings, documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..metrics import metric_title
from ..units import MINUS, THIN, show, show_bytes, show_count, show_delta
from .svg import Fragment, Scale, circle, dots, drawing, join, line, padded, rectangle, tag, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..gate import Check, MetricResult
    from .model import DocumentDelta, TargetReport, Timing, Width

INTERVAL_WIDTH, INTERVAL_HEIGHT = 220, 24
FIGURE_WIDTH = 340
# Room at both sides of a strip, for its name and its number.
GUTTER = 66
# A limit farther away than this many spans of the data would squeeze the data to a dot: it is an arrow then.
FARTHEST_LIMIT = 6
# More dots than these lie upon each other.
MOST_REPEATS, MOST_DOCUMENTS = 60, 160
# The same for documents, whose line is left out then.
FARTHEST_LINE = 1.5


def delta_limit(metric: MetricResult, check: Check) -> float | None:
    """A check's limit as a delta, so that all limits of a metric share an axis; None where there is none."""
    if check.limit is None:
        return None
    if check.compared == "delta":
        return -check.limit if check.rule == "max_decrease" else check.limit
    if metric.reference is None or (metric.comparison == "relative" and metric.reference == 0):
        return None
    return (
        check.limit / metric.reference - 1
        if metric.comparison == "relative"
        else check.limit - metric.reference
    )


def interval_scale(metrics: Sequence[MetricResult], limits: Sequence[float]) -> Scale:
    """The axis that one metric shares between targets: zero, all intervals, and the limits that are near."""
    values = [0.0]
    for metric in metrics:
        values += [number for number in (metric.delta, metric.low, metric.high) if number is not None]
    span = (max(values) - min(values)) or max((abs(limit) for limit in limits), default=1.0)
    near = [
        limit
        for limit in limits
        if min(values) - FARTHEST_LIMIT * span <= limit <= max(values) + FARTHEST_LIMIT * span
    ]
    return padded([*values, *near], 8, INTERVAL_WIDTH - 8)


def interval(metric: MetricResult, checks: Sequence[Check], scale: Scale, status: str) -> Fragment:
    """A dot for the delta, a whisker for its interval, a dashed line for each limit, a thin one at zero.

    The side of a limit that breaks it is shaded.
    """
    middle = INTERVAL_HEIGHT / 2
    parts = [
        _limit(limit, scale, is_upper=check.rule in ("max", "max_increase"))
        for check in checks
        if (limit := delta_limit(metric, check)) is not None
    ]
    parts.append(line(scale(0), 2, scale(0), INTERVAL_HEIGHT - 2, "zero"))
    shown = show_delta(metric.delta, metric.unit, metric.comparison)
    label = f"change {shown}"
    if metric.low is not None and metric.high is not None and metric.low != metric.high:
        low, high = scale(metric.low), scale(metric.high)
        parts.append(line(low, middle, high, middle, f"whisker {status}"))
        parts += [line(x, middle - 4, x, middle + 4, f"whisker {status}") for x in (low, high)]
        bounds = (show_delta(bound, metric.unit, metric.comparison) for bound in (metric.low, metric.high))
        label += f", interval {' to '.join(bounds)}"
    if metric.delta is not None:
        parts.append(circle(scale(metric.delta), middle, 3.6, f"dot {status}"))
    return drawing(INTERVAL_WIDTH, INTERVAL_HEIGHT, label, *parts, class_="interval")


def _limit(limit: float, scale: Scale, *, is_upper: bool) -> Fragment:
    if not scale.holds(limit):
        # Too far to draw: an arrow at the edge points to it.
        tip, back = (INTERVAL_WIDTH - 3, -4) if limit > scale.high else (3, 4)
        middle = INTERVAL_HEIGHT / 2
        points = f"{tip},{middle:g} {tip + back},{middle - 4:g} {tip + back},{middle + 4:g}"
        return tag("polygon", points=points, class_="far")
    x = scale(limit)
    start, width = (x, INTERVAL_WIDTH - x) if is_upper else (0, x)
    return join([
        rectangle(start, 2, width, INTERVAL_HEIGHT - 4, "beyond"),
        line(x, 1, x, INTERVAL_HEIGHT - 1, "limit"),
    ])  # fmt: skip


def size_bars(source_bytes: int, targets: Iterable[TargetReport]) -> Fragment:
    """Bytes of the source's weights and of each target's artifact, on one axis from zero."""
    rows = [("source weights", source_bytes, "reference")]
    for target in targets:
        metric = target.metrics.get("size_bytes")
        if metric is not None and metric.value is not None:
            rows.append((target.name, int(metric.value), "artifact"))
    scale = Scale(0, max(size for _, size, _ in rows) or 1, 0, FIGURE_WIDTH)
    parts = []
    for index, (name, size, kind) in enumerate(rows):
        y = index * 40
        share = f"{size / source_bytes:.0%}" if index and source_bytes else ""
        parts += [
            text(0, y + 12, name, "label"),
            text(FIGURE_WIDTH, y + 12, f"{show_bytes(size)}  {share}".strip(), "number", "end"),
            rectangle(0, y + 18, FIGURE_WIDTH, 10, "track", 2),
            rectangle(0, y + 18, scale(size), 10, f"bar {kind}", 2),
        ]
    label = "; ".join(f"{name} {show_bytes(size)}" for name, size, _ in rows)
    return drawing(FIGURE_WIDTH, len(rows) * 40 - 8, f"Sizes: {label}", *parts)


def width_bar(widths: Sequence[Width]) -> Fragment:
    """Which share of the weights is kept at which width: one bar, and a legend below it."""
    total = sum(width.parameters for width in widths) or 1
    ordered = sorted(widths, key=lambda width: -width.parameters)
    parts, x = [], 0.0
    for index, width in enumerate(ordered):
        share = width.parameters / total * FIGURE_WIDTH
        parts.append(rectangle(x, 0, share - 1, 14, f"shade s{min(index, 4)}"))
        x += share
        y = 38 + index * 20
        tensors = f"{show_count(width.tensors)} tensor{'s' if width.tensors != 1 else ''}"
        parts += [
            rectangle(0, y - 9, 10, 10, f"shade s{min(index, 4)}"),
            text(18, y, width.name, "label"),
            text(FIGURE_WIDTH - 96, y, f"{show_count(width.parameters)} in {tensors}", "faint", "end"),
            text(FIGURE_WIDTH, y, f"{width.parameters / total:.1%}", "number", "end"),
        ]
    label = ", ".join(f"{width.name} {width.parameters / total:.1%}" for width in ordered)
    return drawing(FIGURE_WIDTH, 34 + len(ordered) * 20, f"Weights by width: {label}", *parts)


def repeats(metric: str, rows: Mapping[str, Timing]) -> Fragment:
    """Every repeat of one timing as a dot, its median as a stroke: reference above artifact, for each target.

    The axis starts at zero, so that lengths compare as times do.
    """
    every = [sample for timing in rows.values() for sample in (*timing.reference, *timing.value)]
    scale = Scale(0, max(every, default=1.0) * 1.02 or 1.0, GUTTER, FIGURE_WIDTH - GUTTER)
    unit = next(iter(rows.values())).unit
    parts, y = [], 0.0
    for name, timing in rows.items():
        parts.append(text(0, y + 11, name, "label"))
        for kind, samples in (("reference", timing.reference), ("artifact", timing.value)):
            y += 22
            parts += _strip(y, kind, samples, scale, unit)
        y += 26
    parts += _axis(scale, y - 8)
    title = metric_title(metric)
    return drawing(FIGURE_WIDTH, y + 10, f"{title}: every repeat, reference and artifact", *parts)


def _strip(y: float, kind: str, samples: Sequence[float], scale: Scale, unit: str) -> list[Fragment]:
    if not samples:
        return []
    ordered = sorted(samples)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    middle = y + 8
    return [
        text(0, middle + 4, kind, "faint"),
        line(scale.start, middle, scale.stop, middle, "track-line"),
        dots(((scale(sample), middle) for sample in thinned(ordered, MOST_REPEATS)), f"sample {kind}"),
        line(scale(median), y, scale(median), y + 16, f"median {kind}"),
        text(FIGURE_WIDTH, middle + 4, show(median, unit), "number", "end"),
    ]


def _axis(scale: Scale, y: float) -> list[Fragment]:
    parts = [line(scale.start, y, scale.stop, y, "axis")]
    for tick in scale.ticks(4):
        x = scale(tick)
        parts += [line(x, y, x, y + 3, "axis"), text(x, y + 14, f"{tick:g}", "tick", "middle")]
    return parts


def _tick(delta: float, comparison: str) -> str:
    if not delta:
        return "0"
    shown = f"{delta * 100:+g}{THIN}%" if comparison == "relative" else f"{delta:+g}"
    return shown.replace("-", MINUS)


def thinned(ordered: Sequence[float], most: int) -> list[float]:
    """At most so many of the ordered values, at even ranks, the first and the last among them."""
    if len(ordered) <= most:
        return list(ordered)
    return [ordered[round(index * (len(ordered) - 1) / (most - 1))] for index in range(most)]


def _documents(count: int, shown: int) -> str:
    of = f"{shown} of {show_count(count)}" if shown < count else str(count)
    return f"{of} documents, least to most changed"


def document_plot(documents: Sequence[DocumentDelta], limit: float | None, comparison: str) -> Fragment:
    """Each evaluation document's own delta, in ascending order, against zero and the limit."""
    height, top, bottom, left = 170, 8, 20, 46
    ordered = sorted(document.delta for document in documents)
    values = thinned(ordered, MOST_DOCUMENTS)
    span = max(*values, 0.0) - min(*values, 0.0)
    near = [] if limit is None or abs(limit) > FARTHEST_LINE * (span or 1) else [limit]
    scale = padded([*values, 0.0, *near], height - bottom, top)
    across = Scale(-0.5, len(values) - 0.5, left, FIGURE_WIDTH)
    parts = [
        part
        for tick in scale.ticks(4)
        for part in (
            line(left, scale(tick), FIGURE_WIDTH, scale(tick), "grid"),
            text(left - 6, scale(tick) + 3.5, _tick(tick, comparison), "tick", "end"),
        )
    ]
    if near:
        parts.append(line(left, scale(near[0]), FIGURE_WIDTH, scale(near[0]), "limit"))
    parts.append(line(left, scale(0), FIGURE_WIDTH, scale(0), "zero"))
    stems = (f"M{across(i):.1f} {scale(0):.1f}V{scale(value):.1f}" for i, value in enumerate(values))
    parts.append(tag("path", d="".join(stems), class_="stem"))
    parts.append(dots(((across(i), scale(value)) for i, value in enumerate(values)), "sample artifact"))
    parts.append(
        text(
            (left + FIGURE_WIDTH) / 2,
            height - 4,
            _documents(len(ordered), len(values)),
            "tick",
            "middle",
        )
    )
    worse = sum(value > 0 for value in ordered)
    return drawing(FIGURE_WIDTH, height, f"{worse} of {len(ordered)} documents above zero", *parts)
