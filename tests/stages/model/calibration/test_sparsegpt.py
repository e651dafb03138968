"""SparseGPT against steps worked by hand, plain loops in float64, least squares and plain magnitude."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def inputs(width: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs of very different size, float64 [tokens, width]."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * np.exp(rng.standard_normal(width))
    return rng.standard_normal((tokens, width)) @ mixing / width**0.5


def sparsegpt(
    weight: np.ndarray,
    hessian: np.ndarray,
    damp: float,
    sparsity: float = 0.5,
    group: int = 0,
    parts: list[slice] | None = None,
    **order: bool,
) -> np.ndarray:
    import torch
    from ingot.stages.model.calibration.second_order import factorize
    from ingot.stages.model.calibration.sparsegpt import prune_columns
    from ingot.stages.model.sparsity import Target

    how = {"desc_act": False, **order}
    factor = factorize(torch.from_numpy(hessian.astype(np.float32)), damp, group=group or 1, **how)
    whole = torch.from_numpy(weight.astype(np.float32))
    return prune_columns(
        whole, whole == 0, factor, Target(sparsity, group), parts or [slice(0, len(weight))]
    ).numpy()


def in_plain_loops(weight: np.ndarray, hessian: np.ndarray, group: int) -> np.ndarray:
    """Algorithm 1 of the paper in float64 without lazy batches, entry by entry, half of every group going."""
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left, gone = weight.astype(np.float64).copy(), np.zeros(weight.shape, bool)
    for column in range(weight.shape[1]):
        for number in range(len(left)):
            if column % group == 0:
                own = slice(column, column + group)
                cost = left[number, own] ** 2 / np.diag(upper)[own] ** 2
                gone[number, column + np.argsort(cost, kind="stable")[: group // 2]] = True
            if gone[number, column]:
                error = left[number, column] / upper[column, column]
                left[number, column + 1 :] -= error * upper[column, column + 1 :]
                left[number, column] = 0.0
    return left


# H = [[2, 1], [1, 2]] twice, so H⁻¹ = [[2, −1], [−1, 2]] / 3 twice, and H⁻¹ = UᵀU has U₁₁² = U₃₃² = 2/3,
# U₂₂² = U₄₄² = 1/2 and U₁₂ / U₁₁ = U₃₄ / U₃₃ = −1/2. So entries cost 3/2 w² and 2 w² in turn, and a first one
# of a pair that goes moves the second by half of itself.
PAIRS = np.kron(np.eye(2), [[2.0, 1.0], [1.0, 2.0]])
# Costs 1.5 32 1.5 32 / 24 2 1.5 32 / 24 2 24 2 / 1.5 1.28 13.5 32: the two least of each row are the eight
# least of all too.
BEFORE = np.array([[1, 4, 1, 4], [4, 1, 1, 4], [4, 1, 4, 1], [1, 0.8, 3, 4]])
AFTER = [[0, 4.5, 0, 4.5], [4, 0, 0, 4.5], [4, 0, 4, 0], [0, 0, 3, 4]]


@pytest.mark.parametrize("group", [0, 4])
def test_four_rows_of_four_weights_worked_by_hand(group: int) -> None:
    np.testing.assert_allclose(sparsegpt(BEFORE, PAIRS, 0.0, group=group), AFTER, rtol=1e-6)


def test_weights_below_one_another_get_their_share_each() -> None:
    # Of the first row alone the two least go, and of the other three the six least.
    found = sparsegpt(BEFORE * [[100], [1], [1], [1]], PAIRS, 0.0, parts=[slice(0, 1), slice(1, 4)])
    np.testing.assert_allclose(found, np.array(AFTER) * [[100], [1], [1], [1]], rtol=1e-6)


@pytest.mark.parametrize("group", [0, 4, 8])
@pytest.mark.parametrize("desc_act", [False, True])
def test_with_an_identity_hessian_it_is_magnitude(group: int, desc_act: bool) -> None:
    import torch
    from ingot.stages.model.calibration.masks import by_magnitude
    from ingot.stages.model.sparsity import Target

    weight = np.random.default_rng(1).standard_normal((24, 96)).astype(np.float32)
    expected = by_magnitude(torch.from_numpy(weight), Target(0.5, group)).numpy()
    assert np.array_equal(sparsegpt(weight, np.eye(96), 0.0, group=group, desc_act=desc_act), expected)


@pytest.mark.parametrize("width", [40, 136, 304])
@pytest.mark.parametrize("group", [4, 8])
def test_it_is_the_algorithm_in_double_precision(width: int, group: int) -> None:
    weight = np.random.default_rng(2).standard_normal((12, width)).astype(np.float32)
    seen = inputs(width, 3 * width)
    hessian = (seen.T @ seen / len(seen)).astype(np.float32).astype(np.float64)
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(width)
    expected = in_plain_loops(weight, damped, group)
    found = sparsegpt(weight, hessian, 0.01, group=group)
    same = ((found == 0) == (expected == 0)).all(1)
    # Where two costs lie within float32's error of one another, rows may part ways.
    assert same.mean() > 0.8
    assert np.abs(found - expected)[same].max() < 1e-3 * np.abs(expected).max()


def test_what_stays_behind_what_went_is_the_least_squares_solution() -> None:
    """Brain Surgeon's moves are optimal where all that goes comes first."""
    width, gone = 20, 8
    rng = np.random.default_rng(3)
    seen = inputs(width, 200)
    weight = rng.standard_normal((5, width))
    weight[:, gone:] += 1e3
    hessian = (seen.T @ seen / 200).astype(np.float32).astype(np.float64)
    found = sparsegpt(weight, hessian, 0.0, sparsity=gone / width)
    assert (found[:, :gone] == 0).all()
    stays = np.arange(gone, width)
    expected = np.linalg.solve(hessian[np.ix_(stays, stays)], hessian[stays] @ weight.T).T
    np.testing.assert_allclose(found[:, gone:], expected, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    sparsity=st.floats(0.05, 0.95),
    width=st.sampled_from([24, 130, 200]),
    desc_act=st.booleans(),
    seed=st.integers(0, 999),
)
def test_exactly_the_share_goes_and_zeros_stay(
    sparsity: float, width: int, desc_act: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((10, width)).astype(np.float32)
    held = rng.random(weight.shape) < 0.04
    weight[held] = 0
    seen = inputs(width, 2 * width, seed)
    found = sparsegpt(weight, seen.T @ seen / len(seen), 0.01, sparsity=sparsity, desc_act=desc_act)
    assert (found[held] == 0).all()
    wanted = round(sparsity * weight.size)
    assert wanted <= (found == 0).sum() <= wanted + held.sum()


@pytest.mark.parametrize("group", [0, 4])
def test_weights_of_inputs_that_never_act_go_first(group: int) -> None:
    weight = np.random.default_rng(4).standard_normal((9, 32)).astype(np.float32)
    seen = inputs(32, 100)
    seen[:, [3, 17]] = 0
    found = sparsegpt(weight, seen.T @ seen / 100, 0.01, group=group)
    assert (found[:, [3, 17]] == 0).all()


def test_fitting_anew_is_the_least_squares_solution_of_numpy() -> None:
    import torch
    from ingot.stages.model.calibration.sparsegpt import refit

    rng, width = np.random.default_rng(5), 24
    weight = rng.standard_normal((6, width)).astype(np.float32)
    seen = inputs(width, 200)
    hessian = (seen.T @ seen / 200).astype(np.float32)
    damped = hessian.astype(np.float64) + 0.01 * np.diag(hessian).mean() * np.eye(width)
    pruned = np.where(rng.random(weight.shape) < 0.5, 0, weight).astype(np.float32)
    found = refit(*(torch.from_numpy(each) for each in (weight, pruned, hessian)), 0.01, 60).numpy()
    for row in range(len(weight)):
        stays = np.flatnonzero(pruned[row])
        expected = np.linalg.solve(damped[np.ix_(stays, stays)], damped[stays] @ weight[row])
        np.testing.assert_allclose(found[row, stays], expected, rtol=5e-3, atol=5e-4)
        assert (np.delete(found[row], stays) == 0).all()


@settings(max_examples=20, deadline=None)
@given(group=st.sampled_from([0, 4, 8]), steps=st.integers(0, 12), seed=st.integers(0, 999))
def test_it_loses_less_than_magnitude_and_fitting_anew_never_more(group: int, steps: int, seed: int) -> None:
    import torch
    from ingot.stages.model.calibration.masks import by_magnitude
    from ingot.stages.model.calibration.second_order import weighted_error
    from ingot.stages.model.calibration.sparsegpt import refit
    from ingot.stages.model.sparsity import Target

    weight = np.random.default_rng(seed).standard_normal((32, 64)).astype(np.float32)
    seen = inputs(64, 256, seed)
    hessian = torch.from_numpy((seen.T @ seen / 256).astype(np.float32))
    whole = torch.from_numpy(weight)
    found = torch.from_numpy(sparsegpt(weight, hessian.numpy(), 0.01, group=group))
    plain = by_magnitude(whole, Target(0.5, group))
    fitted = refit(whole, found, hessian, 0.01, steps)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(64)
    lost, lost_plain, lost_fitted = (
        float(weighted_error(whole - each, damped).sum()) for each in (found, plain, fitted)
    )
    assert lost < lost_plain
    assert lost_fitted <= lost * (1 + 1e-5)
    assert torch.equal(fitted == 0, found == 0)
