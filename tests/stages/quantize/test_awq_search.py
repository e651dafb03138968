"""AWQ's search against a hand-worked example, true outputs, and a scan of its grid in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.stages.model.families import Linear, Norm
from ingot.stages.model.fold import Fold, Rows
from ingot.stages.model.quantized import WeightFormat


def inputs(width: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs, some channels far stronger than others, float32 [tokens, width]."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) / width**0.5 + np.eye(width)
    found = rng.standard_normal((tokens, width)) @ mixing * np.exp(1.5 * rng.standard_normal(width))
    return found.astype(np.float32)


def gram_of(values: np.ndarray):
    import torch

    return torch.from_numpy(values.T @ values / np.float32(len(values)))


def plain_fold(width: int) -> Fold:
    return Fold((Linear("reader", "reader", 1, width),), Norm("norm"), width, width)


def search(
    weights: list[np.ndarray], form: WeightFormat, hessian, how: str = "hessian", *, duo: bool = False
):
    import torch
    from ingot.stages.quantize.awq_search import best_scales, weigh

    weighed = [weigh(torch.from_numpy(weight), form, how, hessian) for weight in weights]
    fold = plain_fold(weights[0].shape[1])
    return best_scales(weighed, fold, how, hessian, duo_scaling=duo), weighed


def test_two_channels_worked_by_hand() -> None:
    # 2 bits, symmetric: the largest weight, 1, is the step, so 0.4 becomes 0. Its channel is 10 times as
    # strong, so that costs 10² · 0.4² = 16. With s = (1, 10^α) the second weight is 0.4 · 10^α: at α = 0.4 it
    # is 1.00475 and the step; the first becomes that too, an error of 0.00475, and the second is exact. At
    # α = 0.35 the step is 1 and the second 1 / 10^0.35 = 0.4467, which costs 10² · 0.0467² = 0.218; at
    # α = 0.45 the step is 1.1273, and the first costs 0.1273² = 0.0162.
    import torch

    hessian = torch.diag(torch.tensor([1.0, 100.0]))
    weight = np.array([[1.0, 0.4]], np.float32)
    best, weighed = search([weight], WeightFormat(2, 0, True), hessian, "minmax")
    assert weighed[0].lost == pytest.approx(16, rel=1e-6)
    assert best.alpha == 0.4
    assert float(best.scales[1] / best.scales[0]) == pytest.approx(10**0.4, rel=1e-6)
    assert float(best.scales.prod()) == pytest.approx(1, rel=1e-6)
    step = 0.4 * 10**0.4 * float(best.scales[0])
    assert float(best.levels[0].scales) == pytest.approx(step, rel=1e-6)

    from ingot.stages.quantize.awq_search import lost, restored

    codes, found = restored(torch.from_numpy(weight), best.levels[0], best.scales)
    assert codes.tolist() == [[3, 3]]
    assert found.tolist() == [[pytest.approx(1.00475, abs=1e-5), pytest.approx(0.4, rel=1e-6)]]
    loss = lost(torch.from_numpy(weight), best.levels[0], best.scales, hessian)
    assert loss == pytest.approx((0.4 * 10**0.4 - 1) ** 2, rel=1e-2)


@pytest.mark.parametrize("form", [WeightFormat(3, 16, True), WeightFormat(4, 0, False)])
def test_what_is_lost_is_what_outputs_differ_by(form: WeightFormat) -> None:
    import torch
    from ingot.stages.quantize.awq_search import find_scaled, lost, restored

    values = inputs(48, 400)
    weight = np.random.default_rng(1).standard_normal((9, 48)).astype(np.float32)
    scales = torch.exp(torch.randn(48, generator=torch.Generator().manual_seed(2)))
    hessian = gram_of(values)
    levels = find_scaled(torch.from_numpy(weight), form, "hessian", hessian, scales)
    found = restored(torch.from_numpy(weight), levels, scales)[1].numpy()
    outputs = values.astype(np.float64) @ (weight - found).T.astype(np.float64)
    claimed = lost(torch.from_numpy(weight), levels, scales, hessian)
    assert claimed == pytest.approx((outputs**2).sum() / len(values), rel=1e-4)


def test_scaled_weights_are_clipped_for_their_scaled_inputs() -> None:
    # Levels of W·s for inputs x / s are those that the plain search finds when it is given just these.
    import torch
    from ingot.stages.quantize.awq_search import find_scaled
    from ingot.stages.quantize.hessian import find_levels

    values = inputs(32, 300)
    weight = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    scales = torch.exp(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    form = WeightFormat(3, 16, True)
    found = find_scaled(weight, form, "hessian", gram_of(values), scales)
    expected = find_levels(weight * scales, form, "hessian", gram_of(values / scales.numpy()))
    torch.testing.assert_close(found.scales, expected.scales, rtol=1e-6, atol=0)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 3, 4, 8]),
    sym=st.booleans(),
    duo=st.booleans(),
    how=st.sampled_from(["minmax", "mse", "hessian"]),
)
def test_no_weight_of_an_input_ever_loses_by_scales(
    seed: int, bits: int, sym: bool, duo: bool, how: str
) -> None:
    import torch
    from ingot.stages.quantize.awq_search import lost

    rng = np.random.default_rng(seed)
    hessian = gram_of(inputs(24, 100, seed))
    weights = [rng.standard_normal((rows, 24)).astype(np.float32) for rows in (5, 3)]
    best, weighed = search(weights, WeightFormat(bits, 8, sym), hessian, how, duo=duo)
    if best is None:
        return
    found = [
        lost(torch.from_numpy(weight), levels, best.scales, hessian)
        for weight, levels in zip(weights, best.levels, strict=True)
    ]
    assert all(new <= each.lost for new, each in zip(found, weighed, strict=True))
    assert sum(found) < sum(each.lost for each in weighed)


def test_without_clipping_the_grid_finds_what_a_scan_in_plain_loops_finds() -> None:
    values = inputs(16, 200, seed=5)
    weight = np.random.default_rng(5).standard_normal((6, 16)).astype(np.float32)
    best, weighed = search([weight], WeightFormat(3, 8, True), gram_of(values), "minmax")
    strength = np.sqrt((values.astype(np.float64) ** 2).mean(0))

    def loss(alpha: float) -> float:
        scales = strength**alpha
        found = np.empty((6, 16))
        for row in range(6):
            for group in (slice(0, 8), slice(8, 16)):
                scaled = weight[row, group] * scales[group]
                step = np.abs(scaled).max() / 3
                found[row, group] = np.clip(np.rint(scaled / step), -4, 3) * step / scales[group]
        return float((((weight - found) @ values.T) ** 2).sum() / len(values))

    losses = {step / 20: loss(step / 20) for step in range(20)}
    assert weighed[0].lost == pytest.approx(losses[0.0], rel=1e-4)
    assert best.alpha == min(losses, key=losses.__getitem__)
    assert losses[best.alpha] < losses[0.0]


def test_channels_that_share_a_scale_take_the_strongest_and_dead_ones_none() -> None:
    import torch
    from ingot.stages.quantize.awq_search import candidates

    # Two query heads of width 2 on one value head: channels 0 and 2 share a scale, 1 and 3 another.
    fold = Fold((Linear("o", "o", 1, 4),), Rows(Linear("v", "v", 2, 4), 0, 2, 2), 2, 2, 2)
    tried = dict(candidates(fold, torch.diag(torch.tensor([1.0, 4.0, 16.0, 1.0])), [], []))
    # The strongest are 4 and 2; half of that, of geometric mean 1, is √(4/2) and its inverse to the half.
    np.testing.assert_allclose(tried[0.5], [2**0.25, 2**-0.25], rtol=1e-6)
    np.testing.assert_array_equal(tried[0.0], [1, 1])
    dead = dict(candidates(plain_fold(3), torch.diag(torch.tensor([0.0, 1.0, 9.0])), [], []))
    np.testing.assert_allclose(dead[0.5], [1, 3**-0.25, 3**0.25], rtol=1e-6)


def test_duo_scaling_makes_scales_smaller_where_weights_are_larger() -> None:
    import torch
    from ingot.stages.quantize.awq_search import candidates

    # In groups of 2 each weight is divided by the larger: shares are 1 and 1/4, and 1/2 and 1.
    weight = torch.tensor([[2.0, 0.5, 1.0, -2.0]])
    tried = dict(candidates(plain_fold(4), torch.eye(4), [weight], [2]))
    expected = np.array([1, 0.25, 0.5, 1]) ** -0.5
    expected /= np.exp(np.log(expected).mean())
    np.testing.assert_allclose(tried[0.5], expected, rtol=1e-6)
