"""Which of many artifacts are worth a choice: those that none beats in both size and quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..metrics import QUALITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import TargetReport


def front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """The places of the points (size, loss) that no other is below in one and not above in the other.

    They go from the smallest on; of equal points all are on the front (Pareto optimality).
    """
    ordered = sorted(range(len(points)), key=points.__getitem__)
    found: list[int] = []
    for place in ordered:
        if not found or points[place][1] < points[found[-1]][1] or points[place] == points[found[-1]]:
            found.append(place)
    return tuple(found)


def position(target: TargetReport, metric: str) -> tuple[float, float] | None:
    """Bytes of a target, and how much it lost of a metric of quality; None where either was not measured."""
    quality, size = target.metrics.get(metric), target.metrics.get("size_bytes")
    if quality is None or size is None or quality.delta is None or size.value is None:
        return None
    return size.value, quality.delta if quality.better == "lower" else -quality.delta


def on_front(targets: Iterable[TargetReport]) -> frozenset[str]:
    """The names of the targets that no other beats in both size and the metric that speaks for quality."""
    listed = list(targets)
    metric = next((name for name in QUALITY if any(name in each.metrics for each in listed)), "")
    placed = [(each.name, place) for each in listed if (place := position(each, metric)) is not None]
    return frozenset(placed[index][0] for index in front([place for _, place in placed]))
