"""`linear` by hand and against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingot.artifacts.errors import InputError


def test_the_average_is_weighted(merge):
    found = merge("linear", [[1.0, 2.0], [3.0, 6.0]], each=[{"weight": 1.0}, {"weight": 3.0}])
    assert found.tolist() == [2.5, 5.0]


def test_the_sum_is_not_divided_where_it_is_not_normalised(merge):
    found = merge(
        "linear", [[1.0, 2.0], [3.0, 6.0]], each=[{"weight": 1.0}, {"weight": 3.0}], normalize=False
    )
    assert found.tolist() == [10.0, 20.0]


def test_weights_that_add_up_to_nothing_have_no_average(merge):
    with pytest.raises(InputError, match="add up to 0"):
        merge("linear", [[1.0], [3.0]], each=[{"weight": 1.0}, {"weight": -1.0}])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_model_with_all_the_weight_comes_out_bit_for_bit(merge, dtype):
    chosen = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-7, -3.0]).to(dtype)
    other = torch.full((6,), float("inf")).to(dtype)
    found = merge("linear", [chosen, other], each=[{"weight": 1.0}, {"weight": 0.0}], dtype=dtype)
    assert found.view(torch.uint8).tolist() == chosen.view(torch.uint8).tolist()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.lists(st.floats(0.0625, 2, width=32), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_the_result_is_the_nearest_that_bfloat16_has(merge, weights, seed):
    generator = torch.Generator().manual_seed(seed)
    models = [torch.randn(200, generator=generator).bfloat16() for _ in weights]
    found = merge("linear", models, each=[{"weight": weight} for weight in weights], dtype=torch.bfloat16)
    exact = sum(w * m.double() for w, m in zip(weights, models, strict=True)) / sum(weights)
    # Half of the last place, with 8 bits before it, and what float32 rounded on the way.
    place = torch.exp2(torch.floor(torch.log2(exact.abs().clamp(min=1e-30)))) * 2.0**-8
    slack = 1e-6 * sum(w * m.double().abs() for w, m in zip(weights, models, strict=True)) / sum(weights)
    assert ((found.double() - exact).abs() <= place + slack).all()
