"""`sce` by hand: the three steps of the paper."""

from __future__ import annotations

import pytest

DELTAS = [[1.0, -2.0, 0.5], [3.0, 2.0, 0.5]]


def test_models_are_weighted_by_the_squares_of_their_differences(merge):
    # Energies 5.25 and 13.25; signs +, + (the sum is 0), +: at the second element only the second counts.
    first, second = 5.25 / 18.5, 13.25 / 18.5
    found = merge("sce", DELTAS, [0.0, 0.0, 0.0])
    assert found.tolist() == pytest.approx([first + 3 * second, 2.0, 0.5])


def test_the_elements_that_vary_most_are_kept_of_those_that_vary(merge):
    # Variances 1, 4, 0: half of the two that vary is one, the second. Energies are then 4 and 4.
    found = merge("sce", DELTAS, [0.0, 0.0, 0.0], select_topk=0.5)
    assert found.tolist() == [0.0, 2.0, 0.0]


def test_none_is_kept_where_the_share_is_less_than_one_element(merge):
    assert merge("sce", DELTAS, [1.0, 2.0, 3.0], select_topk=0.4).tolist() == [1.0, 2.0, 3.0]


def test_small_differences_are_weighted_like_large_ones(merge):
    base = [0.0, 0.0, 0.0]
    small = merge("sce", [[each / 1024 for each in delta] for delta in DELTAS], base)
    assert (small * 1024).tolist() == pytest.approx(merge("sce", DELTAS, base).tolist(), rel=1e-5)


def test_models_like_the_base_leave_it(merge):
    assert merge("sce", [[1.0, 2.0]] * 2, [1.0, 2.0]).tolist() == [1.0, 2.0]
