"""Rounding to a grid, against hand-worked groups, torch's fake quantization, and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ingot.stages.quantize.grid import LOWEST_CLIP, Grid, group_count, round_to_nearest

BITS = (2, 3, 4, 8)
weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-1e4, 1e4, width=32),
)


def dequantize(grid: Grid, group_size: int) -> np.ndarray:
    group = np.arange(grid.codes.shape[1]) // (group_size or grid.codes.shape[1])
    return (grid.codes.astype(np.float32) - grid.zeros[:, group]) * grid.scales[:, group]


def test_a_symmetric_row_worked_by_hand():
    weight = np.array([[-7.0, 3.4, 0.0, 3.6]], dtype=np.float32)
    grid = round_to_nearest(weight, 4, 0, sym=True, search="minmax")
    assert grid.scales.tolist() == [[1.0]]
    assert grid.zeros.tolist() == [[8]]
    assert grid.codes.tolist() == [[1, 11, 8, 12]]


def test_an_asymmetric_row_worked_by_hand():
    weight = np.array([[-1.0, 2.0, 0.4]], dtype=np.float32)
    grid = round_to_nearest(weight, 2, 0, sym=False, search="minmax")
    assert grid.scales.tolist() == [[1.0]]
    assert grid.zeros.tolist() == [[1]]
    assert grid.codes.tolist() == [[0, 3, 1]]


def test_groups_have_scales_of_their_own_and_the_last_may_be_short():
    weight = np.concatenate([np.full(16, 7.0), np.full(16, 14.0), np.full(3, 70.0)]).astype(np.float32)[None]
    grid = round_to_nearest(weight, 4, 16, sym=True, search="minmax")
    assert group_count(35, 16) == 3
    assert grid.scales.tolist() == [[1.0, 2.0, 10.0]]
    assert grid.codes.shape == weight.shape
    np.testing.assert_array_equal(dequantize(grid, 16), weight)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_codes_stand_for_what_torch_fake_quantization_gives(bits, sym):
    weight = np.random.default_rng(bits).standard_normal((24, 64), dtype=np.float32)
    grid = round_to_nearest(weight, bits, 0, sym=sym, search="minmax")
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight),
        torch.from_numpy(grid.scales[:, 0].copy()),
        torch.from_numpy(grid.zeros[:, 0].astype(np.int32)),
        axis=0,
        quant_min=0,
        quant_max=2**bits - 1,
    ).numpy()
    np.testing.assert_allclose(dequantize(grid, 0), expected, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(weight=weights, bits=st.sampled_from(BITS), group_size=st.sampled_from((0, 16, 32)), sym=st.booleans())
def test_min_max_rounding_is_never_off_by_more_than_half_a_step(weight, bits, group_size, sym):
    grid = round_to_nearest(weight, bits, group_size, sym=sym, search="minmax")
    group = np.arange(weight.shape[1]) // (group_size or weight.shape[1])
    step = grid.scales[:, group]
    # A rounded zero point moves the range by up to half a step, and clipping then costs as much again.
    bound = step * (0.5 if sym else 1.0) * (1 + 1e-4) + 1e-30
    assert np.all(np.abs(dequantize(grid, group_size) - weight) <= bound)
    assert grid.codes.max() < 2**bits
    if sym:
        assert np.all(grid.zeros == 2 ** (bits - 1))


@settings(max_examples=60, deadline=None)
@given(weight=weights, bits=st.sampled_from(BITS), group_size=st.sampled_from((0, 16, 32)), sym=st.booleans())
def test_the_scale_search_never_does_worse_than_the_full_range(weight, bits, group_size, sym):
    def error(search: str) -> float:
        grid = round_to_nearest(weight, bits, group_size, sym=sym, search=search)
        return float(np.square(dequantize(grid, group_size).astype(np.float64) - weight).sum())

    assert error("mse") <= error("minmax") * (1 + 1e-4) + 1e-12


@pytest.mark.parametrize(("bits", "gain"), [(4, 0.95), (3, 0.85), (2, 0.60)])
def test_the_scale_search_comes_near_the_best_clip_of_gaussian_weights(bits, gain):
    weight = np.random.default_rng(0).standard_normal((64, 128), dtype=np.float32)

    def error(values: np.ndarray, ratio: float) -> np.ndarray:
        high = np.abs(values).max(axis=1, keepdims=True) * ratio
        scale = high / (2 ** (bits - 1) - 1)
        codes = np.clip(np.round(values / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return np.square(codes * scale - values).sum(axis=1)

    fine = np.min([error(weight, ratio) for ratio in np.linspace(0.15, 1.0, 400)], axis=0).sum()
    grid = round_to_nearest(weight, bits, 0, sym=True, search="mse")
    found = np.square(dequantize(grid, 0) - weight).sum()
    plain = error(weight, 1.0).sum()
    assert found <= fine * 1.03
    assert found < gain * plain
    assert LOWEST_CLIP[bits] < 1


def test_weights_that_are_all_zero_stay_zero():
    grid = round_to_nearest(np.zeros((2, 20), dtype=np.float32), 4, 16, sym=False, search="mse")
    assert not dequantize(grid, 16).any()
