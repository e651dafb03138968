"""Figures of trainings: losses over steps, and the point that was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import significant
from .figures import Figure
from .svg import Fragment, Scale, circle, drawing, line, padded, tag, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .trainings import TrainingReport

WIDTH, HEIGHT, LEFT, BOTTOM = 340, 150, 44, 18
# A loss that shot up this far above where it began would press all others flat; one that begins so far below
# what was measured is of another kind, such as a divergence from a teacher.
SHOWN_NATS = 1.0


def figures_of(trainings: Sequence[TrainingReport]) -> Iterator[Figure]:
    """The losses of every training."""
    for each in trainings:
        if each.loss or len(each.selection) > 1:
            yield Figure(f"{each.node}: loss", losses(each), "nats a token")


def losses(training: TrainingReport) -> Fragment:
    """Steps across, loss upwards: of the training text faint, of the text that chose with a dot for each
    measurement, the one that was taken larger; the reference as a dashed line.
    """
    chosen = [(point.done, point.loss) for point in training.selection if point.loss is not None]
    learned = [(point.done, point.loss) for point in training.loss if point.loss is not None]
    measured = [loss for _, loss in chosen]
    if learned and measured and learned[0][1] < min(measured) - SHOWN_NATS:
        learned = []
    ceiling = (training.start if training.start is not None else float("inf")) + SHOWN_NATS
    given = [loss for _, loss in learned if loss <= ceiling]
    reference = [] if training.reference is None else [training.reference]
    shown = [*given, *(loss for _, loss in chosen if loss <= ceiling), *reference]
    up = padded(shown, HEIGHT - BOTTOM, 8)
    across = Scale(0, max(1, training.steps), LEFT, WIDTH - 8)
    parts = [line(LEFT, HEIGHT - BOTTOM, WIDTH, HEIGHT - BOTTOM, "axis")]
    for tick in up.ticks(4):
        parts += [
            line(LEFT, up(tick), WIDTH, up(tick), "grid"),
            text(LEFT - 5, up(tick) + 3.5, f"{tick:.4g}", "tick", "end"),
        ]
    parts += [
        text(across(done), HEIGHT - 4, f"{done:g}", "tick", "end" if done else "start")
        for done in (0, training.steps)
    ]
    if reference:
        y = up(reference[0])
        parts += [
            line(LEFT, y, WIDTH, y, "zero"),
            text(WIDTH, y - 4, f"teacher {significant(reference[0], 4)}", "small faint halo", "end"),
        ]
    if learned:
        parts.append(_path(learned, across, up, "context"))
    if chosen:
        parts.append(_path(chosen, across, up, "artifact"))
    for done, loss in chosen:
        parts.append(circle(across(done), up(loss), 4.2 if done == training.best else 2.2, "dot artifact"))
    return drawing(WIDTH, HEIGHT, f"Losses of {training.node} by step", *parts, description=_said(training))


def _path(points: Sequence[tuple[float, float]], across: Scale, up: Scale, kind: str) -> Fragment:
    path = " ".join(f"{across(done):.1f} {up(loss):.1f}" for done, loss in points)
    return tag("path", d=f"M{path}", class_=f"curve {kind}")


def _said(training: TrainingReport) -> str:
    if training.start is None or training.end is None:
        return f"{training.steps} steps"
    taken = f"taken at step {training.best} of {training.steps}"
    return f"{significant(training.start, 4)} at the start, {significant(training.end, 4)} {taken}"
