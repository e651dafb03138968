"""The figure of what each stage saved in bytes and cost in quality, from the source to the artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import show_bytes, show_delta
from .svg import Fragment, Scale, drawing, rectangle, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .parts import Step

WIDTH, ROW_HEIGHT = 340, 46


def waterfall(steps: Sequence[Step], target: str, metric: str, comparison: str) -> Fragment:
    """A row a stage of ``target``: the bytes of the weights after it, light where it took some away, and what
    it changed of ``metric`` since the last place where that was measured.
    """
    largest = max((step.size_bytes or 0 for step in steps), default=0) or 1
    scale = Scale(0, largest, 0, WIDTH)
    changes = list(step_changes(steps, comparison))
    parts: list[Fragment] = []
    said = []
    before: int | None = None
    for row, (step, change) in enumerate(zip(steps, changes, strict=True)):
        y = row * ROW_HEIGHT
        size = step.size_bytes
        shown = show_bytes(size) if size is not None else ""
        if size is not None and before:
            shown += f" ({show_delta(size / before - 1, '', 'relative')})"
        parts += [
            text(0, y + 12, step.stage, "label"),
            text(WIDTH, y + 12, shown, "number", "end"),
            rectangle(0, y + 17, WIDTH, 8, "track", 2),
        ]
        if size is not None:
            parts += _bar(scale, y + 17, before or size, size)
            before = size
        quality = _quality(step, change, target, metric, comparison)
        parts.append(text(0, y + 37, quality, "faint small"))
        said.append(f"{step.stage}: {shown}; {quality}")
    height = len(steps) * ROW_HEIGHT - 6
    return drawing(WIDTH, height, "What each stage saved and cost", *parts, description=". ".join(said))


def step_changes(steps: Sequence[Step], comparison: str) -> Iterator[float | None]:
    """What each step changed since the last one that was measured; relative changes multiply up to the whole.

    None where it was not measured, and where nothing before it was.
    """
    known: float | None = None
    for step in steps:
        if step.delta is None:
            yield None
            continue
        if known is None:
            yield None
        elif comparison == "relative":
            yield (1 + step.delta) / (1 + known) - 1
        else:
            yield step.delta - known
        known = step.delta


def _bar(scale: Scale, y: float, before: int, after: int) -> Iterator[Fragment]:
    kept = min(before, after)
    yield rectangle(0, y, scale(kept), 8, "bar artifact", 2)
    if after != before:
        kind = "saved" if after < before else "added"
        yield rectangle(scale(kept), y, scale(max(before, after)) - scale(kept), 8, f"bar {kind}", 2)


def _quality(step: Step, change: float | None, target: str, metric: str, comparison: str) -> str:
    """What is said of quality after a step; measurements of another target are named."""
    if step.delta is None:
        return f"{metric}: measured with the next stage"
    by = f", measured as {step.measured_by}" if step.measured_by not in ("", target) else ""
    if change is None:
        return f"{metric}{by}" if by else f"{metric}: what the others are compared with"
    return f"{metric} {show_delta(change, '' if comparison == 'relative' else 'fraction', comparison)}{by}"
