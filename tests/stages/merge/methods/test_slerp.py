"""`slerp` by geometry: ends, symmetry, lengths, and vectors that have no arc between them."""

from __future__ import annotations

import math

import pytest
import torch

A, B = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])


def test_the_middle_of_a_right_angle_is_as_long_as_its_ends(merge):
    found = merge("slerp", [B], A, t=0.5)
    assert found.tolist() == pytest.approx([3 * math.sqrt(0.5), 0, 3 * math.sqrt(0.5)], abs=1e-6)


@pytest.mark.parametrize("t", [0.1, 0.35, 0.8])
def test_equal_lengths_are_kept_and_the_angle_is_shared_out(merge, t):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(1000, generator=generator), dim=0) for _ in range(2))
    found = merge("slerp", [b], a, t=t).double()
    assert float(found.norm()) == pytest.approx(1, abs=1e-6)
    whole = math.acos(float(a.double() @ b.double()))
    assert math.acos(float(a.double() @ found)) == pytest.approx(t * whole, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_ends_are_the_models_bit_for_bit(merge, dtype):
    a, b = torch.tensor([1.0, -0.0, float("inf")]).to(dtype), torch.tensor([0.1, 7.0, 3.0]).to(dtype)
    for t, expected in ((0.0, a), (1.0, b)):
        found = merge("slerp", [b], a, dtype=dtype, t=t)
        assert found.view(torch.uint8).tolist() == expected.view(torch.uint8).tolist()


def test_to_go_from_the_other_end_is_to_swap_the_models(merge):
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(500, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        merge("slerp", [b], a, t=0.3), merge("slerp", [a], b, t=0.7), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("factor", [2.0, -2.0])
def test_parallel_tensors_are_interpolated_linearly(merge, factor):
    found = merge("slerp", [A * factor], A, t=0.25)
    assert found.tolist() == pytest.approx([3 * (0.75 + 0.25 * factor), 0, 0])


def test_a_tensor_of_zeros_has_no_direction_and_is_nothing_to_turn_to(merge):
    # Its product with the other is 0, as at a right angle: sin((1 - t) 90°) of the other is left.
    found = merge("slerp", [torch.zeros(3)], A, t=0.5)
    assert found.tolist() == pytest.approx([3 * math.sin(math.pi / 4), 0, 0], abs=1e-6)
