"""Figures of shaded cells: the cells of a sweep, and the weights of a network by role and layer."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..units import THIN, show, show_bytes, significant
from .curves import shortened
from .svg import Fragment, drawing, join, rectangle, tag, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..measurements import SweepCell
    from .parts import WeightGroup

WIDTH = 340
LEVELS = 7
# Ink on the shades below it, paper on the others: see `.h0` to `.h6` in style.css.
FIRST_DARK = 5
SWEEP_GUTTER, SWEEP_HEIGHT, SWEEP_TOP = 46, 48, 20
GRID_LEFT, GRID_RIGHT, ROW_HEIGHT, GRID_TOP = 92, 92, 18, 18
# With more layers than this, cells are too narrow for words and are drawn a shade at a time.
MOST_WORDED, CELL_GAP = 8, 1.0
LONGEST_ROLE = 16
# Of the median error: a shade a step, so that weights that were rounded alike look alike.
ERROR_STEPS = (0.5, 0.8, 1.25, 1.6, 2.0, 3.0)
BIT_SHADES: Mapping[str, int] = {"int2": 0, "int3": 1, "int4": 2, "int8": 4, "float16": 5, "bfloat16": 5}


class Placed(Protocol):
    """What has a place in a grid of roles and layers; layer: None for what is outside of layers."""

    @property
    def role(self) -> str:
        """Its row."""

    @property
    def layer(self) -> int | None:
        """Its column."""


C = TypeVar("C", bound=Placed)


def sweep_grid(cells: Sequence[SweepCell], side: str, metric: str, base: str | None, best: float) -> Fragment:
    """Batches down, sequences across: a side's median time, its tokens a second, and how many times as fast
    as ``base`` it is. The darker, the nearer to ``best`` tokens a second.
    """
    batches = sorted({cell.batch for cell in cells})
    sequences = sorted({cell.sequence for cell in cells})
    width = (WIDTH - SWEEP_GUTTER) / len(sequences)
    parts = [text(0, SWEEP_TOP - 7, "batch", "faint small")]
    for column, sequence in enumerate(sequences):
        x = SWEEP_GUTTER + (column + 0.5) * width
        parts.append(
            text(x, SWEEP_TOP - 7, f"{sequence} tokens" if width > 62 else str(sequence), "small", "middle")
        )
    for row, batch in enumerate(batches):
        parts.append(text(0, SWEEP_TOP + row * SWEEP_HEIGHT + 28, str(batch), "label"))
    said = []
    for cell in cells:
        found = cell.sides.get(side, {}).get(metric)
        rate = cell.tokens_per_second(side, metric)
        if found is None or rate is None:
            continue
        x = SWEEP_GUTTER + sequences.index(cell.sequence) * width
        y = SWEEP_TOP + batches.index(cell.batch) * SWEEP_HEIGHT
        level = min(LEVELS - 1, int(rate / best * LEVELS)) if best else 0
        lines = [show(found.p50, "ms"), f"{_rate(rate)}/s"]
        theirs = cell.tokens_per_second(base, metric) if base else None
        if theirs:
            lines.append(f"{significant(rate / theirs, 2)}{THIN}×")
        parts.append(_cell(x, y, width, SWEEP_HEIGHT, level, lines))
        said.append(f"batch {cell.batch}, {cell.sequence} tokens: {', '.join(lines)}")
    label = f"{side}: {'prefill' if metric == 'prefill_ms' else 'one decoding step'} by batch and sequence"
    height = SWEEP_TOP + len(batches) * SWEEP_HEIGHT
    return drawing(WIDTH, height, label, *parts, class_="heat", description="; ".join(said))


def best_rate(cells: Iterable[SweepCell], sides: Iterable[str], metric: str) -> float:
    """The most tokens a second of any cell and side: what the shades of figures are compared by."""
    names = list(sides)
    rates = (cell.tokens_per_second(side, metric) or 0.0 for cell in cells for side in names)
    return max(rates, default=0.0)


def _rate(value: float) -> str:
    return f"{significant(value / 1e6)}{THIN}M" if value >= 1e6 else significant(value)


def _cell(x: float, y: float, width: float, height: float, level: int, lines: Sequence[str]) -> Fragment:
    """A shaded box with lines of words, the first of which is its number."""
    dark = " on-dark" if level >= FIRST_DARK else ""
    first = y + (height - 13 * (len(lines) - 1)) / 2 + 4
    words = (
        text(x + width / 2, first + 13 * index, line, f"{'small' if index else 'number'}{dark}", "middle")
        for index, line in enumerate(lines)
    )
    return join([rectangle(x + 0.5, y + 0.5, width - 1, height - 1, f"cell h{level}", 2), *words])


def width_grid(groups: Sequence[WeightGroup]) -> Fragment:
    """Roles down, layers across: the darker, the more bits a weight; a row's width and bytes at its end."""
    rows = _rows(groups)
    widths_of = {role: list(dict.fromkeys(group.width for group in found)) for role, found in rows.items()}
    ends = {}
    for role, found in rows.items():
        widths = widths_of[role]
        size = show_bytes(sum(group.size_bytes for group in found))
        ends[role] = f"{_short(widths[0]) if len(widths) == 1 else 'mixed'} · {size}"
    return layer_grid(
        rows, ends, lambda group: bit_shade(group.width),
        # What a whole row has in common stands at its end.
        lambda group: "" if len(widths_of[group.role]) == 1 else re.sub("[a-z]", "", group.width),
        "Weights by role and layer: width, and bytes of all layers",
    )  # fmt: skip


def error_grid(groups: Sequence[WeightGroup]) -> Fragment:
    """Roles down, layers across: the darker, the larger the error of rounding against the median of all; a
    row's largest error at its end.
    """
    rounded = [group for group in groups if group.error is not None]
    median = statistics.median(group.error for group in rounded if group.error is not None)
    rows = _rows(rounded)
    ends = {
        role: f"{significant(100 * max(group.error or 0 for group in found))}{THIN}%"
        for role, found in rows.items()
    }
    return layer_grid(
        rows, ends, lambda group: error_shade(group.error or 0, median),
        lambda group: significant(100 * (group.error or 0), 2),
        "Relative error of rounding, in %, by role and layer; the largest of each role at its end",
    )  # fmt: skip


def _short(width: str) -> str:
    """A width as its column has room for it."""
    return width.replace("float", "fp")


def bit_shade(width: str) -> int:
    """The shade of a width: more bits, more ink; of several widths, that of the widest."""
    return max(BIT_SHADES.get(part, LEVELS - 1) for part in width.split(", "))


def error_shade(error: float, median: float) -> int:
    """The shade of an error: 2 around the median, lighter below and darker above."""
    return sum(error > step * median for step in ERROR_STEPS)


def _rows(groups: Sequence[WeightGroup]) -> dict[str, list[WeightGroup]]:
    rows: dict[str, list[WeightGroup]] = {}
    for group in groups:
        rows.setdefault(group.role, []).append(group)
    return rows


def layer_grid(
    rows: Mapping[str, Sequence[C]],
    ends: Mapping[str, str],
    shade: Callable[[C], int],
    word: Callable[[C], str],
    label: str,
) -> Fragment:
    """Roles down, layers across: a shade a cell, its word where there is room. ends: of rows."""
    layers = sorted({group.layer for found in rows.values() for group in found if group.layer is not None})
    span = WIDTH - GRID_LEFT - GRID_RIGHT
    width = span / max(1, len(layers))
    parts = list(_layer_numbers(layers, width))
    shades: dict[int, list[str]] = {}
    words = []
    for number, (role, found) in enumerate(rows.items()):
        y = GRID_TOP + number * ROW_HEIGHT
        parts += [
            text(0, y + 13, shortened(role, LONGEST_ROLE), "small"),
            text(WIDTH, y + 13, ends[role], "small number", "end"),
        ]
        for group in found:
            x = GRID_LEFT + (layers.index(group.layer) * width if group.layer is not None else 0)
            wide = width if group.layer is not None else span
            is_worded = len(layers) <= MOST_WORDED or group.layer is None
            gap = CELL_GAP if is_worded else 0
            box = f"M{x + gap / 2:.1f} {y + 1}h{wide - gap:.1f}v{ROW_HEIGHT - 2}h-{wide - gap:.1f}z"
            level = shade(group)
            shades.setdefault(level, []).append(box)
            if is_worded and (said := word(group)):
                dark = " on-dark" if level >= FIRST_DARK else ""
                words.append(text(x + wide / 2, y + 13, said, f"small{dark}", "middle"))
    parts += [
        tag("path", d="".join(boxes), class_=f"cell h{level}") for level, boxes in sorted(shades.items())
    ]
    parts += words
    described = "; ".join(f"{role} {end}" for role, end in ends.items())
    return drawing(
        WIDTH, GRID_TOP + len(rows) * ROW_HEIGHT, label, *parts, class_="heat", description=described
    )


def _layer_numbers(layers: Sequence[int], width: float) -> Iterable[Fragment]:
    """Every layer's number where they fit, else the first and the last."""
    if not layers:
        return
    yield text(0, GRID_TOP - 6, "layer", "faint small")
    shown = layers if len(layers) <= MOST_WORDED else (layers[0], layers[-1])
    for layer in shown:
        x = GRID_LEFT + (layers.index(layer) + 0.5) * width
        yield text(x, GRID_TOP - 6, str(layer), "faint small", "middle")
