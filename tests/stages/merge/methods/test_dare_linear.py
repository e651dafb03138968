"""`dare_linear`: what chance drops is made up for, and nothing but the seed decides what that is."""

from __future__ import annotations

import pytest
import torch

COUNT = 200_000
ONE = [{"weight": 1.0, "density": 0.3}]


def test_what_is_kept_is_scaled_so_that_magnitudes_add_up_to_what_they_did(merge):
    delta = torch.linspace(-1, 1, COUNT)
    found = merge("dare_linear", [delta], torch.zeros(COUNT), ONE)
    kept = found != 0
    assert float(kept.double().mean()) == pytest.approx(0.3, abs=0.006)
    factor = float(delta.double().abs().sum() / delta[kept].double().abs().sum())
    torch.testing.assert_close(found[kept], delta[kept] * factor, rtol=1e-6, atol=0)


def test_without_rescaling_what_is_kept_is_as_it_was(merge):
    delta = torch.linspace(1, 2, COUNT)
    found = merge("dare_linear", [delta], torch.zeros(COUNT), ONE, rescale=False)
    assert torch.equal(found[found != 0], delta[found != 0])


def test_the_mean_over_seeds_is_task_arithmetic(merge):
    delta = torch.tensor([1.0, -2.0, 3.0, 0.5] * 64)
    drawn = [merge("dare_linear", [delta], torch.zeros(256), ONE, seed=seed).double() for seed in range(200)]
    mean, error = torch.stack(drawn).mean(0), torch.stack(drawn).std(0) / 200**0.5
    assert float(((mean - delta) / error).abs().max()) < 5


def test_each_seed_and_each_input_drops_others(merge):
    ones, zeros = torch.ones(1000), torch.zeros(1000)
    first = merge("dare_linear", [ones], zeros, ONE)
    assert torch.equal(first, merge("dare_linear", [ones], zeros, ONE, threads=3))
    assert not torch.equal(first, merge("dare_linear", [ones], zeros, ONE, seed=1))
    both = merge("dare_linear", [ones, ones * 2], zeros, ONE * 2, rescale=False)
    assert set(both.tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(("density", "expected"), [(1.0, 5.0), (0.0, 0.0)])
def test_all_or_nothing_is_no_chance(merge, density, expected):
    each = [{"weight": 1.0, "density": density}]
    assert merge("dare_linear", [[5.0] * 9], [0.0] * 9, each).tolist() == [expected] * 9
