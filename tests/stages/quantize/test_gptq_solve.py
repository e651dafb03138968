"""GPTQ against a hand-worked example, plain rounding, and Optimal Brain Surgeon in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.artifacts.errors import StageError
from ingot.stages.model.quantized import WeightFormat
from ingot.stages.quantize.grid import round_to_nearest


def inputs(width: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs of very different size, float64 [tokens, width]."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * np.exp(rng.standard_normal(width))
    return rng.standard_normal((tokens, width)) @ mixing / width**0.5


def levels_of(weight: np.ndarray, form: WeightFormat, search: str = "minmax", hessian=None):
    import torch
    from ingot.stages.quantize.hessian import find_levels

    return find_levels(torch.from_numpy(weight), form, search, hessian)


def gptq(weight: np.ndarray, hessian: np.ndarray, levels, damp: float, *, desc_act: bool) -> np.ndarray:
    import torch
    from ingot.stages.model.calibration.second_order import factorize
    from ingot.stages.quantize.gptq_solve import round_columns

    factor = factorize(torch.from_numpy(hessian.astype(np.float32)), damp, desc_act=desc_act)
    return round_columns(torch.from_numpy(weight), levels, factor).numpy()


def surgeon(weight: np.ndarray, hessian: np.ndarray, levels, order: np.ndarray) -> np.ndarray:
    """Codes by Optimal Brain Surgeon, equations 2 and 3 of the GPTQ paper, with the inverse in full.

    One column at a time, all others move by −(w − quant w) / [H⁻¹]qq · [H⁻¹]q, and the column is taken out of
    the inverse by one step of Gaussian elimination.
    """
    left, inverse = weight.astype(np.float64).copy(), np.linalg.inv(hessian)
    scales, zeros = levels.scales.numpy().astype(np.float64), levels.zeros.numpy().astype(np.float64)
    codes = np.zeros_like(left)
    for column in order:
        group = int(levels.group[column])
        scale, zero = scales[:, group], zeros[:, group]
        code = np.clip(np.rint(left[:, column] / scale) + zero, 0, 2**levels.bits - 1)
        codes[:, column] = code
        error = left[:, column] - (code - zero) * scale
        left -= np.outer(error, inverse[column]) / inverse[column, column]
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column] = inverse[:, column] = 0.0
    return codes


def test_a_row_of_two_weights_worked_by_hand() -> None:
    # H = [[2, 1], [1, 2]], so H⁻¹ = [[2, −1], [−1, 2]] / 3. Levels are …, −1, 0, 1, … The first weight, 0.4,
    # becomes 0; its error 0.4 moves the second by −0.4 / (2/3) · (−1/3) = +0.2, from 0.4 to 0.6, which
    # becomes 1. Plain rounding gives 0 and 0, whose error eᵀHe = 0.96 exceeds that of 0 and 1, 0.56.
    import torch
    from ingot.stages.model.calibration.second_order import weighted_error
    from ingot.stages.quantize.hessian import Levels

    weight, hessian = np.float32([[0.4, 0.4]]), np.float32([[2, 1], [1, 2]])
    levels = Levels(torch.ones(1, 1), torch.full((1, 1), 2.0), torch.zeros(2, dtype=torch.int64), 2)
    assert gptq(weight, hessian, levels, 0.0, desc_act=False).tolist() == [[2, 3]]
    assert levels.encode(torch.from_numpy(weight)).tolist() == [[2, 2]]
    errors = torch.tensor([[0.4, 0.4], [0.4, -0.6]])
    assert weighted_error(errors, torch.from_numpy(hessian)).tolist() == pytest.approx([0.96, 0.56])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("desc_act", [True, False])
def test_with_an_identity_hessian_it_is_plain_rounding(bits: int, sym: bool, desc_act: bool) -> None:
    weight = np.random.default_rng(bits).standard_normal((24, 80)).astype(np.float32)
    form = WeightFormat(bits, 32, sym)
    levels = levels_of(weight, form)
    codes = gptq(weight, np.eye(80), levels, 0.0, desc_act=desc_act)
    expected = round_to_nearest(weight, bits, 32, sym=sym, search="minmax")
    assert np.array_equal(codes, expected.codes)


@pytest.mark.parametrize("width", [40, 130, 300])
@pytest.mark.parametrize("desc_act", [True, False])
def test_it_is_optimal_brain_surgeon_in_double_precision(width: int, desc_act: bool) -> None:
    rows, damp = 20, 0.01
    weight = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    seen = inputs(width, 3 * width)
    hessian = (seen.T @ seen / len(seen)).astype(np.float32).astype(np.float64)
    form = WeightFormat(4, 32, True)
    levels = levels_of(weight, form)
    order = np.argsort(-np.diag(hessian), kind="stable") if desc_act else np.arange(width)
    damped = hessian + damp * np.diag(hessian).mean() * np.eye(width)
    expected = surgeon(weight, damped, levels, order)
    codes = gptq(weight, hessian, levels, damp, desc_act=desc_act)
    # Where a moved weight lies within float32's error of the middle between two levels, both are right.
    assert (codes == expected).mean() > 0.995

    def error(found: np.ndarray) -> float:
        scales, zeros = (part.numpy()[:, levels.group.numpy()] for part in (levels.scales, levels.zeros))
        apart = weight - (found - zeros) * scales
        return float(np.einsum("ri,ij,rj->", apart, hessian, apart))

    assert error(codes) == pytest.approx(error(expected), rel=1e-2)


def test_moved_weights_agree_with_double_precision_to_1e_5() -> None:
    """With one level a weight, nothing is ever between two: all that is compared is what moves."""
    import torch
    from ingot.stages.model.calibration.second_order import factorize

    width = 96
    seen = inputs(width, 400)
    hessian = seen.T @ seen / len(seen)
    factor = factorize(torch.from_numpy(hessian.astype(np.float32)), 0.01, desc_act=False)
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(width)
    expected = np.linalg.cholesky(np.linalg.inv(damped)).T
    # The factor's rows, by their diagonal, are the moves of the columns behind.
    found = factor.upper.double().numpy()
    found, expected = (each / np.diag(each)[:, None] for each in (found, expected))
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4]),
    group_size=st.sampled_from([0, 16, 32]),
    sym=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_it_never_loses_much_to_plain_rounding_and_mostly_wins(
    bits: int, group_size: int, sym: bool, seed: int
) -> None:
    import torch
    from ingot.stages.model.calibration.second_order import weighted_error

    width = 64
    weight = np.random.default_rng(seed).standard_normal((32, width)).astype(np.float32)
    seen = inputs(width, 256, seed)
    hessian = torch.from_numpy((seen.T @ seen / len(seen)).astype(np.float32))
    levels = levels_of(weight, WeightFormat(bits, group_size, sym))
    codes = torch.from_numpy(gptq(weight, hessian.numpy(), levels, 0.01, desc_act=True))
    whole = torch.from_numpy(weight)
    lost = weighted_error(whole - levels.decode(codes), hessian).sum()
    plain = weighted_error(whole - levels.decode(levels.encode(whole)), hessian).sum()
    assert lost < plain


def test_the_fitted_scales_are_the_least_squares_solution_of_numpy() -> None:
    import torch
    from ingot.stages.quantize.gptq_solve import refit_scales

    rows, width = 6, 48
    weight = np.random.default_rng(2).standard_normal((rows, width)).astype(np.float32)
    seen = inputs(width, 200).astype(np.float32)
    hessian = seen.T @ seen / len(seen)
    levels = levels_of(weight, WeightFormat(3, 16, True))
    codes = levels.encode(torch.from_numpy(weight))
    fitted = refit_scales(torch.from_numpy(weight), codes, levels, torch.from_numpy(hessian), 0.0)
    for row in range(rows):
        centred = (codes[row] - 4).numpy()
        columns = np.stack([
            seen[:, g * 16 : (g + 1) * 16] @ centred[g * 16 : (g + 1) * 16] for g in range(3)
        ], axis=1)  # fmt: skip
        expected = np.linalg.lstsq(columns, seen @ weight[row], rcond=None)[0]
        np.testing.assert_allclose(fitted.scales[row].numpy(), expected, rtol=2e-3)


def test_clipping_by_the_hessian_loses_least_of_all_ratios_that_are_tried() -> None:
    import torch
    from ingot.stages.quantize.grid import CANDIDATES, LOWEST_CLIP
    from ingot.stages.quantize.hessian import Levels

    form = WeightFormat(3, 0, True)
    weight = np.random.default_rng(3).standard_normal((5, 24)).astype(np.float32)
    seen = inputs(24, 100).astype(np.float32)
    hessian = seen.T @ seen / 100
    found = levels_of(weight, form, "hessian", torch.from_numpy(hessian))
    for row in range(5):
        spans = np.abs(weight[row]).max() * np.linspace(1, LOWEST_CLIP[3], CANDIDATES)
        tried = [
            Levels(torch.tensor([[span / 3]]).float(), torch.tensor([[4.0]]), found.group, 3)
            for span in spans
        ]
        whole = torch.from_numpy(weight[row : row + 1])
        errors = [(whole - each.decode(each.encode(whole))).numpy()[0] for each in tried]
        losses = [float(error @ hessian @ error) for error in errors]
        own = (
            whole
            - found.rows(slice(row, row + 1)).decode(found.encode(torch.from_numpy(weight))[row : row + 1])
        ).numpy()[0]
        assert float(own @ hessian @ own) == pytest.approx(min(losses), rel=1e-4)


def test_the_corrected_weight_minimizes_the_distance_to_what_the_original_inputs_gave() -> None:
    import torch
    from ingot.stages.model.calibration.second_order import corrected

    rng = np.random.default_rng(4)
    weight = rng.standard_normal((7, 30)).astype(np.float32)
    before = inputs(30, 300).astype(np.float32)
    now = before + 0.1 * rng.standard_normal(before.shape).astype(np.float32)
    hessian, cross = now.T @ now / 300, (before - now).T @ now / 300
    found = corrected(*(torch.from_numpy(each) for each in (weight, hessian, cross)), 0.0).numpy()
    expected = np.linalg.lstsq(now.astype(np.float64), (before @ weight.T).astype(np.float64), rcond=None)[
        0
    ].T
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


def test_inputs_that_are_always_zero_leave_their_weights_rounded_to_nearest() -> None:
    weight = np.random.default_rng(5).standard_normal((9, 32)).astype(np.float32)
    seen = inputs(32, 100)
    seen[:, [3, 17]] = 0
    levels = levels_of(weight, WeightFormat(4, 16, True))
    codes = gptq(weight, seen.T @ seen / 100, levels, 0.01, desc_act=True)
    import torch

    plain = levels.encode(torch.from_numpy(weight)).numpy()
    assert np.array_equal(codes[:, [3, 17]], plain[:, [3, 17]])


def test_a_singular_hessian_is_damped_more_and_says_so() -> None:
    import torch
    from ingot.stages.model.calibration.second_order import factorize

    one = torch.ones(40, 40)
    assert factorize(one, 0.01, desc_act=False).damp == 0.01
    assert factorize(one, 0.0, desc_act=False).damp == pytest.approx(1e-4)
    with pytest.raises(StageError, match="singular"):
        factorize(torch.full((3, 3), float("nan")).fill_diagonal_(1.0), 0.01, desc_act=False)


def test_levels_are_those_of_plain_rounding_in_numpy() -> None:
    weight = np.random.default_rng(6).standard_normal((16, 70)).astype(np.float32)
    for bits, sym, search in ((4, True, "mse"), (3, False, "mse"), (8, True, "minmax"), (2, False, "minmax")):
        levels = levels_of(weight, WeightFormat(bits, 32, sym), search)
        expected = round_to_nearest(weight, bits, 32, sym=sym, search=search)
        np.testing.assert_allclose(levels.scales.numpy(), expected.scales, rtol=1e-6)
        assert np.array_equal(levels.zeros.numpy(), expected.zeros)
