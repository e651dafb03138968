"""`nearswap` by hand."""

from __future__ import annotations

import pytest


def test_what_is_near_is_taken_and_what_is_far_moves_by_t(merge):
    found = merge("nearswap", [[1.5, 3.0, -1.0, 1.0]], [1.0, 1.0, 1.0, 1.0], t=0.5)
    assert found.tolist() == pytest.approx([1.5, 1.5, 0.5, 1.0])


def test_nothing_moves_at_0(merge):
    assert merge("nearswap", [[1.5, 3.0]], [1.0, 2.0], t=0.0).tolist() == [1.0, 2.0]
