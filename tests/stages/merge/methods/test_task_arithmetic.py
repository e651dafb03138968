"""`task_arithmetic` by hand."""

from __future__ import annotations

import pytest
import torch

BASE = [1.0, 1.0, -1.0]
MODELS = ([2.0, 1.0, -1.0], [1.0, 3.0, -2.0])
# Differences: [1, 0, 0] and [0, 2, -1].
WEIGHTS = [{"weight": 2.0}, {"weight": 0.5}]


def test_weighted_differences_are_added(merge):
    assert merge("task_arithmetic", MODELS, BASE, WEIGHTS).tolist() == [3.0, 2.0, -1.5]


def test_lambda_scales_them_and_normalize_divides_them_by_their_weights(merge):
    assert merge("task_arithmetic", MODELS, BASE, WEIGHTS, lambda_=2.0).tolist() == [5.0, 3.0, -2.0]
    found = merge("task_arithmetic", MODELS, BASE, WEIGHTS, normalize=True)
    assert found.tolist() == pytest.approx([1.8, 1.4, -1.2])


def test_weights_that_cancel_are_not_divided_by(merge):
    each = [{"weight": 1.0}, {"weight": -1.0}]
    assert merge("task_arithmetic", MODELS, BASE, each, normalize=True).tolist() == [2.0, -1.0, 0.0]


def test_all_of_one_model_is_that_model_and_nothing_of_it_the_base(merge):
    generator = torch.Generator().manual_seed(0)
    base, model = (torch.randn(999, generator=generator).bfloat16() for _ in range(2))
    one = [{"weight": 1.0}]
    assert torch.equal(merge("task_arithmetic", [model], base, one, torch.bfloat16), model)
    assert torch.equal(merge("task_arithmetic", [model], base, one, torch.bfloat16, lambda_=0.0), base)
