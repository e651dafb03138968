"""What a report shows of its trainings: the losses on the way, the best point, and what it gave back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..graph import Graph
    from ..outcome import Outcome


@dataclass(frozen=True)
class Point:
    """A loss in nats a token once ``done`` steps were over; None where it was not finite."""

    done: int
    loss: float | None


@dataclass(frozen=True)
class TrainingReport:
    """One training. node: its name.

    loss: of the training text, means over the steps up to each point.  selection: of the text that chose.
    best: the steps behind the point that was taken.  reference: what the teacher makes of the text that
    chose, where there is one that predicts tokens.
    """

    node: str
    stage: str
    loss: tuple[Point, ...]
    selection: tuple[Point, ...]
    best: int
    steps: int
    reference: float | None = None

    @property
    def start(self) -> float | None:
        """The selection loss before the first step."""
        return self.selection[0].loss if self.selection else None

    @property
    def end(self) -> float | None:
        """The selection loss of the point that was taken."""
        return next((point.loss for point in self.selection if point.done == self.best), None)

    @property
    def recovered(self) -> float | None:
        """The share of what lay between the start and the reference that training gave back.

        None where there is no reference, or the start was no worse than that.
        """
        if self.start is None or self.end is None or self.reference is None:
            return None
        lost = self.start - self.reference
        return (self.start - self.end) / lost if lost > 0 else None


def training_reports(graph: Graph, outcome: Outcome) -> tuple[TrainingReport, ...]:
    """Every training of a run that was carried out, now or before, in the order of the graph."""
    return tuple(_trainings(graph, outcome))


def _trainings(graph: Graph, outcome: Outcome) -> Iterator[TrainingReport]:
    for node in graph.nodes.values():
        result = outcome.results[node.name]
        if result.action is None:
            continue
        observed: Any = result.action.observed.get("stage") or {}
        found = observed.get("training")
        if found:
            reference = observed.get("reference_loss")
            yield TrainingReport(
                node.name, node.stage, _points(found["loss"]), _points(found["selection"]),
                int(found["best"]), int(found["steps"]),
                reference if reference is not None and math.isfinite(reference) else None,
            )  # fmt: skip


def _points(rows: Sequence[Sequence[Any]]) -> tuple[Point, ...]:
    return tuple(Point(int(row[0]), row[1]) for row in rows)
