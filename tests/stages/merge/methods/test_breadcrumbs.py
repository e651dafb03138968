"""`breadcrumbs` by hand, and against sorting."""

from __future__ import annotations

import pytest
import torch

TEN = [0.0, -9.0, 1.0, 8.0, -2.0, 7.0, 3.0, -6.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [
        (0.3, 0.2, {7, -6, 5}),  # 9 and 8 are dropped as outliers
        (0.5, 0.0, {-9, 8, 7, -6, 5}),
        (0.9, 0.2, {8, 7, -6, 5, 4, 3, -2, 1, 0}),  # so dense that one outlier is all that can go
        (1.0, 0.2, set(TEN)),
        (0.0, 0.2, set()),
        (0.2, 0.0, {-9, 8}),
    ],
)
def test_outliers_go_first_and_the_smallest_until_the_density_is_met(merge, density, gamma, kept):
    found = merge("breadcrumbs", [TEN], [0.0] * 10, [{"weight": 1.0, "density": density, "gamma": gamma}])
    assert found.tolist() == [each if each in kept else 0.0 for each in TEN]


def test_several_models_have_masks_of_their_own(merge):
    each = [{"weight": 1.0, "density": 0.25, "gamma": 0.25}, {"weight": 2.0, "density": 1.0, "gamma": 0.1}]
    found = merge("breadcrumbs", [[1.0, 4.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]], [0.0] * 4, each)
    assert found.tolist() == [2.0, 2.0, 2.0, 5.0]


def test_as_many_are_kept_as_the_density_says_whatever_is_equal(merge):
    generator = torch.Generator().manual_seed(0)
    delta = torch.randint(1, 5, (1000,), generator=generator).float()
    each = [{"weight": 1.0, "density": 0.37, "gamma": 0.111}]
    found = merge("breadcrumbs", [delta], torch.zeros(1000), each)
    assert found.count_nonzero() == 370
    order = delta.sort(descending=True, stable=True).indices
    assert torch.equal(found.nonzero().flatten(), order[111:481].sort().values)
    assert torch.equal(found, merge("breadcrumbs", [delta], torch.zeros(1000), each, threads=2, elements=64))
