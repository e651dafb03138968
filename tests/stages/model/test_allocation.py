"""Bits given out: hand-worked cases, and every small case against trying all choices."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.stages.model import allocation
from ingot.stages.model.allocation import Option, allocate

ITEM = st.lists(st.builds(Option, st.integers(0, 12), st.floats(0, 10, width=32)), min_size=1, max_size=4)


def total(items: list[list[Option]], picked: tuple[int, ...]) -> tuple[int, float]:
    chosen = [item[n] for item, n in zip(items, picked, strict=True)]
    return sum(each.bits for each in chosen), sum(each.loss for each in chosen)


def best(items: list[list[Option]], budget: int) -> float:
    choices = itertools.product(*(range(len(item)) for item in items))
    return min(loss for bits, loss in (total(items, each) for each in choices) if bits <= budget)


def test_bits_go_where_they_save_most() -> None:
    # 100 weights each: 2, 3 or 4 bits. From 2 to 3 the first saves 9, the second 1; from 3 to 4 it saves 2.
    first = [Option(200, 12.0), Option(300, 3.0), Option(400, 1.0)]
    second = [Option(200, 2.0), Option(300, 1.0), Option(400, 0.5)]
    assert allocate([first, second], 400) == (0, 0)
    assert allocate([first, second], 599) == (1, 0)
    assert allocate([first, second], 600) == (2, 0)
    assert allocate([first, second], 700) == (2, 1)
    assert allocate([first, second], 10_000) == (2, 2)


def test_a_large_step_that_does_not_fit_leaves_room_for_small_ones() -> None:
    large = [Option(0, 100.0), Option(10, 0.0)]
    small = [Option(0, 5.0), Option(4, 0.0)]
    assert allocate([large, small, small], 9) == (0, 1, 1)


def test_of_equal_losses_the_fewer_bits_are_taken() -> None:
    assert allocate([[Option(8, 1.0), Option(4, 1.0), Option(2, 1.0)]], 8) == (2,)


def test_what_cannot_fit_is_refused_with_what_is_missing() -> None:
    with pytest.raises(ValueError, match="2 bits more than 5"):
        allocate([[Option(3, 0.0)], [Option(4, 0.0), Option(9, 0.0)]], 5)


@given(items=st.lists(ITEM, min_size=1, max_size=4), spare=st.integers(0, 40))
def test_no_other_choice_within_the_budget_loses_less(items: list[list[Option]], spare: int) -> None:
    budget = sum(min(option.bits for option in item) for item in items) + spare
    bits, loss = total(items, allocate(items, budget))
    assert bits <= budget
    assert loss == pytest.approx(best(items, budget), abs=1e-9)


@given(items=st.lists(ITEM, min_size=1, max_size=4), spare=st.integers(0, 40))
def test_without_the_table_the_loss_is_off_by_one_step_at_most(items: list[list[Option]], spare: int) -> None:
    budget = sum(min(option.bits for option in item) for item in items) + spare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "TABLE_CELLS", 0)
        bits, loss = total(items, allocate(items, budget))
    assert bits <= budget
    step = max(max(o.loss for o in item) - min(o.loss for o in item) for item in items)
    assert best(items, budget) - 1e-9 <= loss <= best(items, budget) + step + 1e-6
