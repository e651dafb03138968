"""`multislerp` by hand."""

from __future__ import annotations

import math

import pytest
from ingot.artifacts.errors import InputError

ROOT = math.sqrt(0.5)


def test_directions_and_lengths_are_averaged_apart(merge):
    # Directions (1, 0) and (0, 1), lengths 1 and 3.
    found = merge("multislerp", [[1.0, 0.0], [0.0, 3.0]], each=[{"weight": 1.0}] * 2)
    assert found.tolist() == pytest.approx([2 * ROOT, 2 * ROOT])


def test_weights_turn_the_mean_and_may_stay_as_they_are(merge):
    given, each = [[1.0, 0.0], [0.0, 3.0]], [{"weight": 3.0}, {"weight": 4.0}]
    found = merge("multislerp", given, each=each)
    assert found.tolist() == pytest.approx([0.6 * 15 / 7, 0.8 * 15 / 7])
    found = merge("multislerp", given, each=each, normalize_weights=False)
    assert found.tolist() == pytest.approx([0.6 * 15, 0.8 * 15])


def test_the_mean_is_of_differences_where_there_is_a_base(merge):
    found = merge("multislerp", [[2.0, 1.0], [1.0, 2.0]], [1.0, 1.0], [{"weight": 1.0}] * 2)
    assert found.tolist() == pytest.approx([1 + ROOT, 1 + ROOT])


def test_one_model_comes_out_as_it_is(merge):
    assert merge("multislerp", [[2.0, 1.0]], [5.0, 5.0], [{"weight": 0.3}]).tolist() == [2.0, 1.0]


def test_two_that_cancel_out_are_averaged_and_three_are_refused(merge):
    opposite = [[1.0, 0.0], [-3.0, 0.0]]
    assert merge("multislerp", opposite, each=[{"weight": 1.0}] * 2).tolist() == pytest.approx([-1, 0])
    with pytest.raises(InputError, match="no mean direction"):
        merge("multislerp", [*opposite, [0.0, 0.0]], each=[{"weight": 1.0}] * 3)


def test_weights_that_add_up_to_nothing_are_refused(merge):
    with pytest.raises(InputError, match="add up to 0"):
        merge("multislerp", [[1.0], [2.0]], each=[{"weight": 1.0}, {"weight": -1.0}])
