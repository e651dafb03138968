"""`ram` by hand."""

from __future__ import annotations

import pytest


def test_what_one_model_changed_is_added_whole_and_what_several_did_is_averaged(merge):
    given = [[2.0, 1.0, 1.0, 1.0], [3.0, 1.0, 5.0, 1.0], [1.0, 1.0, 3.0, 1.0]]
    found = merge("ram", given, [1.0, 1.0, 1.0, 1.0])
    assert found.tolist() == [2.5, 1.0, 4.0, 1.0]


def test_differences_up_to_epsilon_are_none(merge):
    found = merge("ram", [[0.5, 4.0], [2.0, 0.0]], [0.0, 0.0], epsilon=0.5)
    assert found.tolist() == pytest.approx([2.0, 4.0])
