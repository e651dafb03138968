"""The search for a point: it comes to the minimum, forgets nothing, and takes nothing worse than anchors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from ingot.stages.merge.trials import Budget, Memory, Point, Trial, search

if TYPE_CHECKING:
    from pathlib import Path

UNIT = (0.0, 1.0)


def bowl(point: Point, _windows: int) -> tuple[float, ...]:
    """Two losses whose mean is least at 0.3, 0.7, 0.3 ..."""
    wanted = [0.3 if place % 2 == 0 else 0.7 for place in range(len(point))]
    distance = sum((value - best) ** 2 for value, best in zip(point, wanted, strict=True))
    return 1 + distance, 3 + distance


def silent(_done: int, _total: int, _what: str) -> None:
    pass


def found(count: int, trials: int = 60, finalists: int = 3, seed: int = 5) -> tuple[Trial, tuple[Trial, ...]]:
    anchors = [(0.5,) * count, (0.0,) * count]
    return search(bowl, [UNIT] * count, anchors, Budget(trials, 8, finalists, 32), seed, silent)


@pytest.mark.parametrize(("count", "trials"), [(1, 30), (2, 60), (4, 150)])
def test_it_comes_to_the_minimum(count: int, trials: int) -> None:
    best, _ = found(count, trials)
    assert best.score == pytest.approx(2, abs=0.003)
    assert best.point[0] == pytest.approx(0.3, abs=0.05)


def test_trials_see_few_windows_and_finalists_and_anchors_more() -> None:
    best, trials = found(2)
    assert [trial.windows for trial in trials] == [8] * 60 + [32] * 5
    assert [trial.point for trial in trials[:2]] == [(0.5, 0.5), (0.0, 0.0)]
    assert best in trials[60:]
    assert best.score == min(trial.score for trial in trials[60:])
    assert all(0 <= value <= 1 for trial in trials for value in trial.point)


def test_the_seed_decides_what_is_tried() -> None:
    assert found(2) == found(2)
    assert found(2) != found(2, seed=6)


def test_a_line_is_searched_until_there_is_nothing_between_two_points() -> None:
    best, trials = found(1, trials=2000)
    assert best.point[0] == pytest.approx(0.3, abs=1e-7)
    assert len(trials) < 400


def test_what_breaks_the_network_is_never_taken() -> None:
    def cliff(point: Point, windows: int) -> tuple[float, ...]:
        return (math.nan,) if point[0] < 0.5 else bowl(point, windows)

    best, trials = search(cliff, [UNIT] * 2, [(0.9, 0.9)], Budget(40, 4, 2, 4), 1, silent)
    assert best.point[0] >= 0.5
    assert any(math.isinf(trial.score) for trial in trials)
    assert best.score < 2 + 0.36 + 0.04


def test_an_anchor_that_is_best_on_more_text_is_taken() -> None:
    def fickle(point: Point, windows: int) -> tuple[float, ...]:
        return (0.0,) if windows == 32 and point == (0.0, 0.0) else bowl(point, windows)

    best, _ = search(fickle, [UNIT] * 2, [(0.0, 0.0)], Budget(20, 8, 2, 32), 1, silent)
    assert best.point == (0.0, 0.0)


def test_what_was_measured_before_a_kill_is_not_measured_again(tmp_path: Path) -> None:
    calls: list[Point] = []

    def counted(point: Point, windows: int) -> tuple[float, ...]:
        calls.append(point)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return bowl(point, windows)

    def again(path: Path) -> tuple[Trial, tuple[Trial, ...]]:
        memory = Memory(path, counted)
        return search(memory, [UNIT] * 2, [(0.5, 0.5)], Budget(30, 8, 2, 32), 3, silent)

    path = tmp_path / "trials.jsonl"
    with pytest.raises(KeyboardInterrupt):
        again(path)
    path.write_text(path.read_text() + "\n[[0.1, 0.")
    resumed = again(path)
    assert len(calls) - 1 == len({(trial.point, trial.windows) for trial in resumed[1]})
    assert resumed == search(bowl, [UNIT] * 2, [(0.5, 0.5)], Budget(30, 8, 2, 32), 3, silent)
