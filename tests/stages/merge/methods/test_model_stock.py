"""`model_stock` by hand: the equation of the paper."""

from __future__ import annotations

import itertools

import pytest
import torch


def test_two_models_at_an_angle_of_60_degrees_go_two_thirds_of_the_way(merge):
    # t = 2 · 0.5 / (1 + 0.5)
    delta = [[2.0, 0.0], [1.0, 3.0**0.5]]
    found = merge("model_stock", delta, [0.0, 0.0])
    assert found.tolist() == pytest.approx([2 / 3 * 1.5, 2 / 3 * 3**0.5 / 2])


def test_the_same_models_are_what_comes_out_and_unrelated_ones_leave_the_base(merge):
    assert merge("model_stock", [[3.0, 1.0]] * 3, [1.0, 2.0]).tolist() == pytest.approx([3.0, 1.0])
    assert merge("model_stock", [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]).tolist() == [0.0, 0.0]


def test_two_opposite_models_leave_the_base(merge):
    assert merge("model_stock", [[2.0, 1.0], [0.0, 1.0]], [1.0, 1.0]).tolist() == [1.0, 1.0]


def test_rows_have_angles_of_their_own(merge):
    base = [[0.0, 0.0], [5.0, 5.0]]
    given = [[[1.0, 1.0], [6.0, 5.0]], [[1.0, 1.0], [5.0, 6.0]]]
    found = merge("model_stock", given, base, filter_wise=True)
    assert found.flatten().tolist() == pytest.approx([1.0, 1.0, 5.0, 5.0])


def test_small_differences_have_the_same_angle_as_large_ones(merge):
    given = torch.tensor([[2.0, 0.0], [1.0, 3.0**0.5]])
    small = merge("model_stock", list(given * 1e-5), [0.0, 0.0])
    assert torch.allclose(small * 1e5, merge("model_stock", list(given), [0.0, 0.0]), rtol=1e-5)


def test_the_order_of_models_does_not_matter(merge):
    torch.manual_seed(0)
    base, *given = torch.randn(4, 50, 8)
    found = [merge("model_stock", list(order), base) for order in itertools.permutations(given)]
    assert all(torch.allclose(each, found[0], atol=1e-6) for each in found)
