"""Rounding with gradients: values and gradients by hand, and against the equations of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.stages.model.quantized import WeightFormat, WeightSpec
from ingot.stages.quantize.lsq import LEAST_RATIO, CodeGrid, LearnedGrid, encode, fake_quantize


def spec(bits=3, group=2, shape=(1, 4), sym=True) -> WeightSpec:
    return WeightSpec(WeightFormat(bits, group, sym), shape)


def test_values_and_gradients_of_four_weights_are_those_by_hand():
    # Two bits: codes 0 to 3 about a zero of 2, so ŵ / s is one of -2, -1, 0, 1; steps of ½ and of 1.
    weight = torch.tensor([[0.2, -0.6, 1.4, -2.5]], requires_grad=True)
    scales = torch.tensor([[0.5, 1.0]], requires_grad=True)
    zeros = torch.tensor([[2.0, 2.0]])
    found = fake_quantize(weight, scales, zeros, 3, 2)
    # w / s: 0.4, -1.2, and beyond both ends 1.4 and -2.5.
    assert found.tolist() == [[0.0, -0.5, 1.0, -2.0]]
    (found * torch.tensor([[1.0, 10.0, 100.0, 1000.0]])).sum().backward()
    assert weight.grad.tolist() == [[1.0, 10.0, 0.0, 0.0]]
    # Inside round(v) - v, outside the end: (0 - 0.4)·1 + (-1 + 1.2)·10, and 1·100 - 2·1000; over √(2·1).
    expected = [(-0.4 + 0.2 * 10) / math.sqrt(2), (100 - 2000) / math.sqrt(2)]
    assert scales.grad.tolist() == [pytest.approx(expected, rel=1e-5)]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), bits=st.sampled_from([2, 3, 4, 8]), sym=st.booleans())
def test_gradients_are_those_of_the_equations_of_lsq_and_lsq_plus(seed, bits, sym):
    generator = torch.Generator().manual_seed(seed)
    top, size = 2**bits - 1, 5
    weight = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    scales = torch.rand(3, 2, generator=generator, dtype=torch.float64) / 2**bits + 0.05
    zeros = torch.full((3, 2), 2.0 ** (bits - 1), dtype=torch.float64)
    if not sym:
        zeros = torch.randint(0, top + 1, (3, 2), generator=generator).double()
    given_back = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    leaves = [each.clone().requires_grad_() for each in (weight, scales, zeros)]
    (fake_quantize(*leaves, top, size) * given_back).sum().backward()
    gain = 1 / math.sqrt(size * (top // 2))
    for row in range(3):
        for group in range(2):
            s, z = float(scales[row, group]), float(zeros[row, group])
            to_scale = to_zero = 0.0
            for column in range(group * size, group * size + size):
                v, g = float(weight[row, column]) / s, float(given_back[row, column])
                if v <= -z or v >= top - z:
                    to_scale += g * (-z if v <= -z else top - z)
                    to_zero -= g * s
                    assert leaves[0].grad[row, column] == 0
                else:
                    to_scale += g * (round(v) - v)
                    assert leaves[0].grad[row, column] == g
            assert float(leaves[1].grad[row, group]) == pytest.approx(to_scale * gain, rel=1e-9, abs=1e-9)
            assert float(leaves[2].grad[row, group]) == pytest.approx(to_zero * gain, rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([0, 3, 4, 16]),
    sym=st.booleans(),
)
def test_what_codes_stand_for_is_to_the_bit_what_the_network_computed_with(seed, bits, group, sym):
    generator = torch.Generator().manual_seed(seed)
    own = spec(bits, group, (4, 10), sym)
    weight = torch.randn(4, 10, generator=generator)
    scales = torch.rand(4, own.groups, generator=generator) / 2**bits + 0.01
    zeros = torch.full((4, own.groups), 2.0 ** (bits - 1))
    if not sym:
        zeros = torch.randint(0, 2**bits, (4, own.groups), generator=generator).float()
    learned = LearnedGrid(own, CodeGrid(scales, zeros), learn_zeros=True)
    with torch.no_grad():
        learned.ratio.add_(0.3 * torch.randn(learned.ratio.shape, generator=generator))
        if learned.shift is not None:
            learned.shift.add_(0.3 * torch.randn(learned.shift.shape, generator=generator))
        learned.keep_positive()
        used = learned(weight)
    grid = learned.grid()
    codes = encode(weight, grid, own)
    columns = torch.arange(10) // (group or 10)
    assert torch.equal((codes - grid.zeros[:, columns]) * grid.scales[:, columns], used)
    assert codes.min() >= 0
    assert codes.max() <= 2**bits - 1
    assert torch.equal(encode(used, grid, own), codes)  # codes are the nearest to what they stand for


def test_scales_never_reach_zero_and_zero_points_stay_among_the_codes():
    learned = LearnedGrid(
        spec(sym=False), CodeGrid(torch.tensor([[0.5, 2.0]]), torch.tensor([[3.0, 6.0]])), learn_zeros=True
    )
    with torch.no_grad():
        learned.ratio.copy_(torch.tensor([[-1.0, 0.5]]))
        learned.shift.copy_(torch.tensor([[-1.0, 1.0]]))
    learned.keep_positive()
    assert learned.grid().scales.tolist() == [[0.5 * LEAST_RATIO, 1.0]]
    assert learned.grid().zeros.tolist() == [[0.0, 7.0]]


def test_zero_points_of_symmetric_groups_are_fixed():
    start = CodeGrid(torch.ones(1, 2), torch.full((1, 2), 4.0))
    assert LearnedGrid(spec(), start, learn_zeros=True).shift is None
    assert LearnedGrid(spec(sym=False), start, learn_zeros=False).shift is None
