"""`karcher` by hand, and against the condition that makes a point the mean."""

from __future__ import annotations

import math

import pytest
import torch


def test_the_mean_of_two_directions_is_their_bisector_at_the_mean_length(merge):
    found = merge("karcher", [[1.0, 0.0], [0.0, 3.0]])
    assert found.tolist() == pytest.approx([2 * math.sqrt(0.5)] * 2, rel=1e-5)


def test_equal_models_come_out_as_they_are(merge):
    torch.manual_seed(0)
    one = torch.randn(30, 7)
    assert torch.allclose(merge("karcher", [one] * 3), one, rtol=1e-6, atol=0)


def test_on_a_circle_the_mean_angle_is_the_mean_of_angles(merge):
    # On it the Karcher mean is that of the angles themselves, which the chord mean is not.
    angles = [0.0, 0.2, 1.3]
    found = merge("karcher", [[math.cos(a), math.sin(a)] for a in angles])
    assert math.atan2(found[1], found[0]) == pytest.approx(0.5, abs=1e-5)
    chord = math.atan2(sum(map(math.sin, angles)), sum(map(math.cos, angles)))
    assert abs(chord - 0.5) > 0.01


def test_the_logarithms_at_the_mean_add_up_to_nothing(merge):
    torch.manual_seed(1)
    given = [torch.randn(40) + 1 for _ in range(4)]
    found = merge("karcher", given, max_iter=50, tol=1e-9).double()
    mean = found / found.norm()
    total = torch.zeros(40, dtype=torch.float64)
    for each in given:
        unit = each.double() / each.double().norm()
        theta = torch.acos(unit @ mean)
        total += theta / torch.sin(theta) * (unit - torch.cos(theta) * mean)
    assert total.norm() < 1e-6
    assert found.norm().item() == pytest.approx(sum(each.norm().item() for each in given) / 4, rel=1e-6)


def test_vectors_of_no_length_have_no_direction_but_count_in_the_length(merge):
    assert merge("karcher", [[4.0, 0.0], [0.0, 0.0]]).tolist() == pytest.approx([2.0, 0.0])
    assert merge("karcher", [[0.0, 0.0], [0.0, 0.0]]).tolist() == [0.0, 0.0]


def test_opposite_directions_keep_the_first(merge):
    assert merge("karcher", [[2.0, 0.0], [-4.0, 0.0]]).tolist() == pytest.approx([3.0, 0.0])
