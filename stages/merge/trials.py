"""The search itself: which points are tried, in which order, and which is best; it knows nothing of merges.

Several numbers are chosen by CMA-ES (Hansen 2016, arXiv:1604.00772, in the package `cmaes`), one alone by
ever finer grids. All trials see the same few windows of text; the best of them, and the anchors, are compared
on more, as in successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943), and the best is taken.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    # Points, each asked for with the trial of the one before.
    Proposals = Generator["Point", "Trial", None]
    # A point and how many windows of each text → the mean loss of each text, in nats a token.
    Measure = Callable[["Point", int], tuple[float, ...]]
    Report = Callable[[int, int, str], None]

Point = tuple[float, ...]
# The first steps reach about a quarter of each range.
SIGMA = 0.25
# Points of one grid, ends included.
GRID = 5
# What infinite losses are taken for where an algorithm computes with them.
WORST = 1e6


@dataclass(frozen=True)
class Trial:
    """A point, on so many windows of each text. losses: of each text, nats a token."""

    point: Point
    windows: int
    losses: tuple[float, ...]

    @property
    def score(self) -> float:
        """What is made small: the mean of the texts' losses; infinite for a merge that breaks the network."""
        mean = math.fsum(self.losses) / len(self.losses)
        return mean if math.isfinite(mean) else math.inf

    def to_json(self) -> dict[str, object]:
        """Plain values; None stands for a loss that is not finite, which JSON cannot say."""
        return {"point": list(self.point), "windows": self.windows, "losses": finite(self.losses)}


def finite(losses: Iterable[float]) -> list[float | None]:
    """The losses as JSON has them: None for those that are not finite."""
    return [loss if math.isfinite(loss) else None for loss in losses]


@dataclass(frozen=True)
class Budget:
    """trials: points that are tried.  windows: of each text that a trial sees.  finalists: of them, how many
    are compared on ``final_windows``.
    """

    trials: int
    windows: int
    finalists: int
    final_windows: int


def search(
    measure: Measure,
    bounds: Sequence[tuple[float, float]],
    anchors: Sequence[Point],
    budget: Budget,
    seed: int,
    report: Report,
) -> tuple[Trial, tuple[Trial, ...]]:
    """The best point within ``bounds`` and all trials in the order in which they were made.

    anchors: are tried first, and compared again in the end, so nothing that is taken is worse than they are.
    """
    done: list[Trial] = []
    total = max(budget.trials, len(anchors)) + budget.finalists + len(anchors)

    def tried(point: Point, windows: int) -> Trial:
        report(len(done), total, f"trial {len(done) + 1}")
        trial = Trial(point, windows, measure(point, windows))
        done.append(trial)
        return trial

    first = [tried(point, budget.windows) for point in anchors]
    ask = _along_a_line if len(bounds) == 1 else _by_evolution
    proposals = ask(bounds, min(first, key=lambda trial: trial.score), seed)
    point = next(proposals, None)
    while point is not None and len(done) < budget.trials:
        trial = tried(point, budget.windows)
        try:
            point = proposals.send(trial)
        except StopIteration:
            break
    ranked = sorted(done, key=lambda trial: trial.score)[: budget.finalists]
    finalists = dict.fromkeys((*(trial.point for trial in ranked), *anchors))
    if budget.final_windows > budget.windows:
        finals = [tried(point, budget.final_windows) for point in finalists]
    else:
        finals = list(done)
    best = min(finals, key=lambda each: (each.score, each.point))
    report(total, total, "searched")
    return best, tuple(done)


def _by_evolution(bounds: Sequence[tuple[float, float]], start: Trial, seed: int) -> Proposals:
    """Points of CMA-ES around the best anchor, each range taken as 0 to 1."""
    import numpy as np
    from cmaes import CMA

    low = np.array([each[0] for each in bounds])
    width = np.array([each[1] for each in bounds]) - low
    unit = np.tile([0.0, 1.0], (len(bounds), 1))
    # From a corner, half of all steps would lead outside.
    mean = np.clip((np.array(start.point) - low) / width, SIGMA, 1 - SIGMA)
    while True:
        strategy = CMA(mean=mean, sigma=SIGMA, bounds=unit, seed=seed % 2**32)
        while not strategy.should_stop():
            told = []
            for _ in range(strategy.population_size):
                found = strategy.ask()
                trial = yield tuple(float(value) for value in low + found * width)
                told.append((found, min(trial.score, WORST)))
            strategy.tell(told)
        seed += 1


def _along_a_line(bounds: Sequence[tuple[float, float]], start: Trial, _seed: int) -> Proposals:
    """Points of grids, each over the two gaps around the best point so far, until a grid has no new one."""
    (low, high), seen, before = bounds[0], {start.point: start.score}, 0
    while len(seen) > before:
        before, gap = len(seen), (high - low) / (GRID - 1)
        for place in range(GRID):
            point = (low + gap * place,)
            if point not in seen:
                trial = yield point
                seen[point] = trial.score
        best = min(seen, key=lambda point: (seen[point], point))[0]
        low, high = max(bounds[0][0], best - gap), min(bounds[0][1], best + gap)


class Memory:
    """Trials that were measured before a kill: a line each in a file, written as they are made.

    resumed: how many the file had.
    """

    def __init__(self, path: Path, measure: Measure) -> None:
        self._path = path
        self._measure = measure
        self._known: dict[tuple[Point, int], tuple[float, ...]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                point, windows, losses = json.loads(line)
            except ValueError:  # none, or one that a kill cut off
                continue
            self._known[tuple(point), windows] = tuple(losses)
        self.resumed = len(self._known)

    def __call__(self, point: Point, windows: int) -> tuple[float, ...]:
        """The losses at a point, measured unless they are known."""
        if (point, windows) not in self._known:
            losses = self._measure(point, windows)
            with self._path.open("a") as stream:
                # The break comes first, since a kill may have cut off the line before.
                stream.write("\n" + json.dumps([point, windows, losses]))
            self._known[point, windows] = losses
        return self._known[point, windows]
