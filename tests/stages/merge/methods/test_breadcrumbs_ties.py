"""`breadcrumbs_ties` by hand."""

from __future__ import annotations


def test_what_is_left_votes_on_signs(merge):
    # Of the first only 3 is left; it outvotes -1, which is dropped from the sum, while 2 stands alone.
    each = [{"weight": 1.0, "density": 1 / 3, "gamma": 1 / 3}, {"weight": 1.0, "density": 1.0}]
    found = merge("breadcrumbs_ties", [[3.0, 9.0, 1.0], [-1.0, 2.0, 0.0]], [0.0] * 3, each)
    assert found.tolist() == [3.0, 2.0, 0.0]
