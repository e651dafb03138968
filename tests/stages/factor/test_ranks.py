"""Ranks by hand, and a budget against every choice there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest


def linear(out: int, width: int) -> object:
    from ingot.stages.model.families import Linear

    return Linear("w", "w", out, width)


@pytest.mark.parametrize(
    ("out", "width", "multiple", "rank"),
    # 64·64 / 128 = 32 is no smaller, 31 is; 64·160 / 224 = 45.7.
    [(64, 64, 1, 31), (64, 64, 8, 24), (64, 160, 1, 45), (64, 160, 8, 40), (8, 8, 8, 0), (5, 1, 1, 0)],
)
def test_the_largest_rank_is_the_last_that_saves(out: int, width: int, multiple: int, rank: int) -> None:
    from ingot.stages.factor.ranks import largest_rank

    assert largest_rank(linear(out, width), multiple) == rank


@pytest.mark.parametrize(
    ("ratio", "multiple", "rank"),
    [(0.8, 1, 36), (0.8, 8, 32), (0.01, 8, 8), (0.999, 8, 40), (0.5, 1, 22), (0.5, 64, None)],
)
def test_a_ratio_is_never_exceeded_but_for_the_least_rank(
    ratio: float, multiple: int, rank: int | None
) -> None:
    from ingot.stages.factor.ranks import rank_of_ratio

    assert rank_of_ratio(linear(64, 160), ratio, multiple) == rank


def test_energy_asks_for_the_least_rank_that_keeps_it() -> None:
    from ingot.stages.factor.ranks import rank_of_energy

    dropped = np.concatenate([np.linspace(1, 0, 21), np.zeros(100)])  # a twentieth with each rank
    assert rank_of_energy(linear(64, 64), dropped, 0.62, 1) == 13
    assert rank_of_energy(linear(64, 64), dropped, 0.62, 4) == 16
    flat = np.linspace(1, 0, 65)
    assert rank_of_energy(linear(64, 64), flat, 0.9, 1) is None, "58 of 64 save nothing"


def test_a_budget_is_spent_where_least_is_lost() -> None:
    from ingot.stages.factor.ranks import largest_rank, ranks_of_budget

    generator = np.random.default_rng(1)
    linears = {"a": linear(40, 40), "b": linear(40, 100), "c": linear(80, 40)}
    dropped = {}
    for name in linears:
        values = np.sort(generator.random(40) ** 4)[::-1]
        shares = 1 - np.concatenate([[0], np.cumsum(values) / values.sum()])
        dropped[name] = shares
    found = ranks_of_budget(linears, dropped, 0.6, 4)

    def size(name: str, rank: int | None) -> int:
        each = linears[name]
        whole = each.out_features * each.in_features
        return whole if rank is None else rank * (each.out_features + each.in_features)

    def loss(name: str, rank: int | None) -> float:
        return 0.0 if rank is None else float(dropped[name][rank])

    choices = [[*range(4, largest_rank(each, 4) + 1, 4), None] for each in linears.values()]
    total = sum(size(name, None) for name in linears)
    allowed = [each for each in itertools.product(*choices) if sum(map(size, linears, each)) <= 0.6 * total]
    best = min(sum(map(loss, linears, each)) for each in allowed)
    assert tuple(found.values()) in allowed
    assert sum(map(loss, linears, found.values())) == pytest.approx(best, abs=1e-12)


def test_a_budget_below_the_least_ranks_is_refused() -> None:
    from ingot.artifacts.errors import RecipeError
    from ingot.stages.factor.ranks import ranks_of_budget

    with pytest.raises(RecipeError, match=r"factor.budget: 0.05 is less than weights of rank 8 take, 0.25"):
        ranks_of_budget({"a": linear(64, 64)}, {"a": np.linspace(1, 0, 65)}, 0.05, 8)
