"""Many targets at a glance: one line each, the cells of a matrix by their values.

A table a target is how a few targets are read; a dozen of them, or an ablation, is read line by line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..metrics import place_in_table
from .model import TargetReport
from .pareto import on_front

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# What a line has room for; the whole of every target is in its own table.
METRICS = ("perplexity", "cosine", "size_bytes", "prefill_ms", "decode_ms", "peak_memory_bytes")
# Up to so many targets are shown one by one.
FEW = 3


@dataclass(frozen=True)
class Overview:
    """Targets that are compared line by line.

    title: the target that a matrix fans out, empty for targets that stand for themselves.  axes: what the
    lines differ in: the matrix' parameters, or `target`.  metrics: the names of those that any line has.
    """

    title: str
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    targets: tuple[TargetReport, ...]

    def place(self, target: TargetReport) -> tuple[str, ...]:
        """Where a target stands on the axes."""
        return tuple(target.cell.get(axis, "") for axis in self.axes) if self.title else (target.name,)

    @property
    def front(self) -> frozenset[str]:
        """The names of those that no other beats in both size and quality, where there are some to choose
        from.
        """
        return on_front(self.targets) if len(self.targets) >= FEW else frozenset()

    @property
    def smallest(self) -> TargetReport | None:
        """The smallest artifact among those that pass; None where none does."""
        return min((each for each in self.targets if each.status == "pass"), key=_size_bytes, default=None)


def overviews(targets: Mapping[str, TargetReport]) -> tuple[Overview, ...]:
    """A table for each matrix of several cells, and one for the other targets where they are many."""
    groups: dict[str, list[TargetReport]] = {}
    for target in targets.values():
        groups.setdefault(target.cell_of or "", []).append(target)
    return tuple(
        _overview(title, members) for title, members in groups.items() if len(members) > (1 if title else FEW)
    )


def alone(targets: Mapping[str, TargetReport]) -> tuple[TargetReport, ...]:
    """The targets that no overview has."""
    listed = {target.name for overview in overviews(targets) for target in overview.targets}
    return tuple(target for name, target in targets.items() if name not in listed)


def _overview(title: str, targets: Iterable[TargetReport]) -> Overview:
    members = tuple(targets)
    axes = tuple(dict.fromkeys(axis for target in members for axis in target.cell)) if title else ("target",)
    having = {name for target in members for name in target.metrics}
    metrics = sorted((name for name in METRICS if name in having), key=place_in_table)
    return Overview(title, axes, tuple(metrics), members)


def _size_bytes(target: TargetReport) -> float:
    metric = target.metrics.get("size_bytes")
    return math.inf if metric is None or metric.value is None else metric.value
