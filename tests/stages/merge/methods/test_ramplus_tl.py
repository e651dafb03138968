"""`ramplus_tl` by hand."""

from __future__ import annotations

import pytest

# The first model shares one element and has two of its own; the second shares one and has none.
GIVEN = [[2.0, 1.0, -1.0, 0.0], [4.0, 0.0, 0.0, 0.0]]


def test_a_models_own_part_is_strengthened_by_what_it_shares(merge):
    found = merge("ramplus_tl", GIVEN, [0.0] * 4, r=0.4, alpha=10.0)
    assert found.tolist() == pytest.approx([3.0, 1.2, -1.2, 0.0])


def test_the_ratio_counts_up_to_alpha(merge):
    found = merge("ramplus_tl", GIVEN, [0.0] * 4, r=0.4, alpha=0.25)
    assert found.tolist() == pytest.approx([3.0, 1.1, -1.1, 0.0])


def test_ratios_are_those_of_the_whole_tensor_whatever_the_blocks(merge):
    found = merge("ramplus_tl", GIVEN, [0.0] * 4, r=0.4, alpha=10.0, elements=1, threads=2)
    assert found.tolist() == pytest.approx([3.0, 1.2, -1.2, 0.0])
