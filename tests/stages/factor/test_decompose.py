"""Factors against closed forms: what a rank loses, by itself and as inputs weigh it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def weight_and_inputs(out: int, width: int, rows: int, seed: int) -> tuple[Any, Any]:
    """W [out, in], and X [in, rows] whose directions differ in strength by a thousand."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((width, width)) * np.geomspace(1, 1e-3, width)
    return generator.standard_normal((out, width)), mixing @ generator.standard_normal((width, rows))


def test_a_matrix_of_known_rank_is_found_exactly() -> None:
    from ingot.stages.factor.decompose import decompose

    generator = np.random.default_rng(3)
    weight = generator.standard_normal((30, 5)) @ generator.standard_normal((5, 40))
    found = decompose(weight, None, 12, seed=0)
    second, first = found.factors(5)
    np.testing.assert_allclose(second @ first, weight, atol=1e-12)
    assert found.dropped()[5] == pytest.approx(0, abs=1e-14)
    assert found.dropped()[4] > 1e-3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, 11))
def test_what_is_lost_on_the_inputs_is_the_root_of_the_dropped_squared_singular_values(
    seed: int, rank: int
) -> None:
    from ingot.stages.factor.decompose import Whitening, decompose

    weight, inputs = weight_and_inputs(16, 12, 50, seed)
    whitening = Whitening.of(inputs @ inputs.T, 0.0)
    found = decompose(weight, whitening, 12, seed=0)
    second, first = found.factors(rank)
    lost = np.linalg.norm((weight - second @ first) @ inputs)
    assert lost == pytest.approx(np.sqrt((found.values[rank:] ** 2).sum()), rel=1e-6)
    whole = np.linalg.norm(weight @ inputs)
    assert found.dropped()[rank] == pytest.approx((lost / whole) ** 2, rel=1e-5, abs=1e-12)


def test_no_other_factors_of_that_rank_lose_less_on_the_inputs() -> None:
    """The optimum of a low-rank map in the outputs, found another way: project W·X on its main directions."""
    from ingot.stages.factor.decompose import Whitening, decompose

    weight, inputs = weight_and_inputs(20, 12, 200, seed=5)
    whitening = Whitening.of(inputs @ inputs.T, 0.0)
    second, first = decompose(weight, whitening, 4, seed=0).factors(4)
    main = np.linalg.svd(weight @ inputs)[0][:, :4]
    np.testing.assert_allclose(second @ first, main @ main.T @ weight, atol=1e-8)
    left, values, right = np.linalg.svd(weight)
    plain = (left[:, :4] * values[:4]) @ right[:4]
    aware_loss = np.linalg.norm((weight - second @ first) @ inputs)
    assert aware_loss < 0.7 * np.linalg.norm((weight - plain) @ inputs)


def test_errors_of_outputs_count_as_their_weights_say() -> None:
    """‖D(W − Ŵ)X‖ is least: no other factors of the rank have less, those without D among them."""
    from ingot.stages.factor.decompose import Whitening, decompose

    weight, inputs = weight_and_inputs(20, 12, 200, seed=8)
    rows = np.geomspace(1, 30, 20)
    whitening = Whitening.of(inputs @ inputs.T, 0.0)
    found = decompose(weight, whitening, 12, seed=0, rows=rows)

    def loss(second: Any, first: Any) -> float:
        return float(np.linalg.norm(rows[:, None] * ((weight - second @ first) @ inputs)))

    weighted = loss(*found.factors(4))
    assert weighted == pytest.approx(np.sqrt((found.values[4:] ** 2).sum()), rel=1e-6)
    assert weighted < 0.95 * loss(*decompose(weight, whitening, 4, seed=0).factors(4))


def test_inputs_that_span_less_than_their_width_are_damped_until_they_do() -> None:
    from ingot.artifacts.errors import StageError
    from ingot.stages.factor.decompose import Whitening

    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((10, 3))
    found = Whitening.of(inputs @ inputs.T, 0.0)
    assert 0 < found.damp <= 0.01
    damped = inputs @ inputs.T + found.damp * (inputs @ inputs.T).diagonal().mean() * np.eye(10)
    np.testing.assert_allclose(found.lower @ found.lower.T, damped, atol=1e-12)
    with pytest.raises(StageError, match="covariance of 4 inputs is singular"):
        Whitening.of(np.zeros((4, 4)), 0.01)


def test_the_second_map_is_fitted_to_a_first_that_was_rounded() -> None:
    from ingot.stages.factor.decompose import Whitening, decompose, refitted
    from ingot.stages.factor.factored import factored, fitted

    weight, inputs = weight_and_inputs(24, 16, 100, seed=2)
    hessian = inputs @ inputs.T
    made = factored(decompose(weight, Whitening.of(hessian, 0.0), 6, seed=0), 6, "BF16")
    first = made.first.astype(np.float64)
    solved = np.linalg.lstsq((first @ inputs).T, (weight @ inputs).T, rcond=None)[0].T
    np.testing.assert_allclose(refitted(weight, first, hessian, 0.0), solved, rtol=1e-5, atol=1e-8)
    better = fitted(made, weight, hessian, 0.0, "F32")

    def loss(second: Any) -> float:
        return float(np.linalg.norm((weight - second @ first) @ inputs))

    assert loss(solved) <= loss(better.second) * (1 + 1e-5) < loss(made.second)
