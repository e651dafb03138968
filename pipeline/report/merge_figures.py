"""Figures of merges: shares by role and layer, and how a search went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..units import THIN, significant
from .figures import Figure
from .heat import LEVELS, layer_grid
from .svg import Fragment, Scale, circle, drawing, line, tag, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .merges import MergeGroup, MergeReport, Search

WIDTH, HEIGHT, LEFT, BOTTOM = 340, 132, 44, 18
# Where trials lie this far above the best, it makes no difference by how much.
SHOWN_NATS = 1.0


@dataclass(frozen=True)
class _Cell:
    """A group with the one number that a figure shows of it."""

    role: str
    layer: int | None
    value: float


def figures_of(merges: Sequence[MergeReport]) -> Iterator[Figure]:
    """What was kept of each model, how alike models are, and the trials of searches."""
    for merge in merges:
        for place, source in enumerate(merge.sources):
            name = PurePath(source).name
            cells = _cells((group, group.kept[place]) for group in merge.groups)
            if cells:
                yield Figure(f"{merge.node}: kept of {name}", _shares(cells, f"kept of {name}"), "in %")
        cells = _cells((group, group.cosine) for group in merge.groups)
        if cells:
            plot = layer_grid(
                _rows(cells), _ends(cells, 1), lambda cell: _shade((cell.value + 1) / 2),
                lambda cell: f"{cell.value:.2f}", "Cosine between what models changed, by role and layer",
            )  # fmt: skip
            yield Figure(f"{merge.node}: cosine between changes", plot, "−1 to 1")
        cells = _cells((group, group.agreement) for group in merge.groups)
        if cells:
            yield Figure(f"{merge.node}: changes in one direction", _shares(cells, "same direction"), "in %")
        if merge.search is not None and len(merge.search.scores) > 1:
            yield Figure(f"{merge.node}: trials", trials(merge.search), "nats a token")


def trials(search: Search) -> Fragment:
    """The mean loss of every trial in their order, and the best so far as a line."""
    finite = [score for score in search.scores if score is not None]
    low = min(finite)
    high = max(low + 1e-6, min(max(finite), low + SHOWN_NATS))
    across = Scale(1, max(2, len(search.scores)), LEFT, WIDTH - 6)
    up = Scale(low, high, HEIGHT - BOTTOM, 8)
    parts = [line(LEFT, up(low), WIDTH, up(low), "axis")]
    ticks = (low, (low + high) / 2, high)
    parts += [text(LEFT - 5, up(tick) + 3.5, significant(tick, 4), "tick", "end") for tick in ticks]
    for place in (1, len(search.scores)):
        anchor = "start" if place == 1 else "end"
        parts.append(text(across(place), HEIGHT - 4, str(place), "tick", anchor))
    best, path = max(finite), []
    for place, score in enumerate(search.scores, start=1):
        shown = min(score if score is not None else high, high)
        best = min(best, shown)
        path.append(f"{across(place):.1f} {up(min(best, high)):.1f}")
        parts.append(circle(across(place), up(shown), 2.5, "dot artifact"))
    parts.append(tag("path", d="M" + " ".join(path), class_="curve artifact"))
    said = f"{len(search.scores)} trials, the best {significant(low, 4)} nats a token"
    return drawing(WIDTH, HEIGHT, "Loss of every trial, and the best so far", *parts, description=said)


def _cells(found: Iterable[tuple[MergeGroup, float | None]]) -> list[_Cell]:
    return [_Cell(group.role, group.layer, number) for group, number in found if number is not None]


def _shares(cells: Sequence[_Cell], what: str) -> Fragment:
    return layer_grid(
        _rows(cells), _ends(cells, 100), lambda cell: _shade(cell.value),
        lambda cell: f"{100 * cell.value:.0f}", f"Share {what}, in %, by role and layer",
    )  # fmt: skip


def _shade(share: float) -> int:
    return max(0, min(LEVELS - 1, int(share * LEVELS)))


def _rows(cells: Sequence[_Cell]) -> dict[str, list[_Cell]]:
    rows: dict[str, list[_Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.role, []).append(cell)
    return rows


def _ends(cells: Sequence[_Cell], factor: float) -> dict[str, str]:
    """What stands at the end of each row: the mean over its layers."""
    unit = f"{THIN}%" if factor != 1 else ""
    return {
        role: f"mean {factor * sum(cell.value for cell in row) / len(row):.{0 if unit else 2}f}{unit}"
        for role, row in _rows(cells).items()
    }
