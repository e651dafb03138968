"""`linear` by hand and against float64."""

from __future__ import annotations

import pytest
import torch
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
