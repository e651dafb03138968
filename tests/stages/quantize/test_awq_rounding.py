"""Codes of scaled weights: a hand-worked example, GPTQ's own, and no more lost than by nearest ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.stages.model.quantized import WeightFormat

from .test_awq_search import gram_of, inputs


def lost(weight: Any, made: Any, values: np.ndarray) -> float:
    """The mean squared error of outputs, in float64, from the inputs themselves."""
    error = (weight - made).numpy().astype(np.float64)
    return float(((values.astype(np.float64) @ error.T) ** 2).sum() / len(values))


def test_the_second_column_pays_for_the_first_as_worked_by_hand() -> None:
    # Step 1 and zero 2 for all: the scaled weights (1.4, 1.4, 1) round to 1, 1, 1. Scales are (1, 2, 1), so
    # the weight is (1.4, 0.7, 1). The first two inputs are x and x/2 up to a little noise of their own, which
    # the scales turn into two that are alike: what column one lost, 0.4, goes to column two, 1.4 + 0.4 = 1.8,
    # which becomes 2, an error of -0.2 together where nearest codes have 0.8.
    import torch
    from ingot.stages.quantize.awq_rounding import Settling, settle
    from ingot.stages.quantize.hessian import Levels

    scales = torch.tensor([1.0, 2.0, 1.0])
    alike = torch.tensor([[1.0, 0.999, 0.0], [0.999, 0.998002, 0.0], [0.0, 0.0, 0.1]])
    alike[1, 1] += 1e-4
    hessian = alike * scales[:, None] * scales
    weight = torch.tensor([[1.4, 0.7, 1.0]])
    levels = Levels(torch.ones(1, 1), torch.full((1, 1), 2.0), torch.zeros(3, dtype=torch.int64), 3)
    by_columns = settle([weight], [levels], scales, hessian, Settling(True, False, 1e-6))[0]
    nearest = settle([weight], [levels], scales, hessian, Settling(False, False, 1e-6))[0]
    assert nearest.codes.tolist() == [[3, 3, 3]]
    assert nearest.is_nearest
    assert by_columns.codes.tolist() == [[3, 4, 3]]
    assert not by_columns.is_nearest
    assert by_columns.made.tolist() == [[1.0, 1.0, 1.0]]


def test_scaled_weights_and_their_inputs_are_rounded_as_gptq_rounds_any_others() -> None:
    # W·s with inputs x / s is a weight as good as another: its codes are those of GPTQ on just these.
    import torch
    from ingot.stages.model.calibration.second_order import factorize
    from ingot.stages.quantize.awq_rounding import Settling, settle
    from ingot.stages.quantize.gptq_solve import refit_scales, round_columns
    from ingot.stages.quantize.hessian import find_levels

    values = inputs(32, 300)
    scales = np.exp(np.random.default_rng(3).standard_normal(32)).astype(np.float32)
    weight = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    form, turned = WeightFormat(3, 16, True), torch.from_numpy(scales)
    other, scaled = gram_of(values / scales), weight * turned
    levels = find_levels(scaled, form, "hessian", other)
    found = settle([weight], [levels], turned, gram_of(values), Settling(True, True, 0.01))[0]
    codes = round_columns(scaled, levels, factorize(other, 0.01, desc_act=True))
    fitted = refit_scales(scaled, codes, levels, other, 0.01)
    assert (found.codes == codes).float().mean() > 0.99
    torch.testing.assert_close(found.made, fitted.decode(codes) / turned, rtol=1e-3, atol=0.02)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 3, 4, 8]),
    sym=st.booleans(),
    by_columns=st.booleans(),
    refit=st.booleans(),
    is_scaled=st.booleans(),
)
def test_nothing_ever_loses_more_than_nearest_codes(
    seed: int, bits: int, sym: bool, by_columns: bool, refit: bool, is_scaled: bool
) -> None:
    import torch
    from ingot.stages.quantize.awq_rounding import Settling, settle
    from ingot.stages.quantize.hessian import find_levels

    values, generator = inputs(24, 100, seed), torch.Generator().manual_seed(seed)
    weights = [torch.randn(rows, 24, generator=generator) for rows in (5, 3)]
    scales = torch.exp(torch.randn(24, generator=generator)) if is_scaled else None
    form = WeightFormat(bits, 8, sym)
    turned = [weight if scales is None else weight * scales for weight in weights]
    levels = [find_levels(weight, form, "minmax") for weight in turned]
    hessian = gram_of(values)
    found = settle(weights, levels, scales, hessian, Settling(by_columns, refit, 0.01))
    nearest = settle(weights, levels, scales, hessian, Settling(False, False, 0.01))
    for weight, one, other in zip(weights, found, nearest, strict=True):
        assert float(one.codes.min()) >= 0
        assert float(one.codes.max()) <= 2**bits - 1
        assert lost(weight, one.made, values) <= lost(weight, other.made, values) * (1 + 1e-4) + 1e-9
        assert torch.equal(one.codes, other.codes) or not one.is_nearest


@pytest.mark.parametrize("bits", [3, 4])
def test_columns_take_a_good_part_off_what_nearest_codes_lose(bits: int) -> None:
    # Errors of inputs that go together cancel: with so much correlation the paper's figures halve.
    import torch
    from ingot.stages.quantize.awq_rounding import Settling, settle
    from ingot.stages.quantize.hessian import find_levels

    values = inputs(64, 1000, 1)
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    levels = [find_levels(weight, WeightFormat(bits, 32, True), "hessian", gram_of(values))]
    losses = [
        lost(weight, settle([weight], levels, None, gram_of(values), each)[0].made, values)
        for each in (Settling(False, False, 0.01), Settling(False, True, 0.01), Settling(True, True, 0.01))
    ]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.8 * losses[0]
