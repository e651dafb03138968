"""`ties` by hand, and the number of elements that it keeps."""

from __future__ import annotations

import pytest

DELTAS = ([3.0, -1.0], [1.0, 2.0], [-1.0, -4.0])
ONES = [{"weight": 1.0}] * 3


# Signs: 3 + 1 - 1 > 0, -1 + 2 - 4 < 0.  They have it: 3 and 1; -1 and -4.
@pytest.mark.parametrize(("normalize", "expected"), [(True, [2.0, -2.5]), (False, [4.0, -5.0])])
def test_the_elements_that_have_the_elected_sign_are_averaged(merge, normalize, expected):
    found = merge("ties", DELTAS, [0.0, 0.0], ONES, normalize=normalize)
    assert found.tolist() == expected


def test_the_largest_are_kept_exactly_as_many_as_the_density_says_and_the_first_of_equals(merge):
    delta = [1.0, -3.0, 2.0, 2.0, -2.0, 0.5, 2.0]
    found = merge("ties", [delta], [0.0] * 7, [{"weight": 1.0, "density": 3.9 / 7}])
    assert found.tolist() == [0, -3, 2, 2, 0, 0, 0]


def test_a_difference_of_zero_does_not_vote(merge):
    found = merge("ties", [[0.0, 4.0], [2.0, 0.0]], [0.0, 0.0], [{"weight": 1.0}] * 2)
    assert found.tolist() == [2.0, 4.0]
