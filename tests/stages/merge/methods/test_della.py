"""`della`: the probabilities of its ranks by hand, and how often elements are kept."""

from __future__ import annotations

import pytest
import torch
from ingot.artifacts.errors import InputError
from ingot.stages.merge.methods.della import probabilities


def test_probabilities_rise_with_the_rank_in_a_row(merge):
    delta = torch.tensor([0.3, -0.1, 0.2, 5.0, 5.0, -7.0])
    found = probabilities(delta, 3, density=0.5, epsilon=0.25)
    assert found.tolist() == pytest.approx([0.75, 0.25, 0.5, 0.25, 0.5, 0.75])


def test_a_row_of_one_element_is_kept_with_the_density():
    assert probabilities(torch.tensor([3.0, 1.0]), 1, 0.5, 0.1).tolist() == [0.5, 0.5]


def test_each_rank_is_kept_as_often_as_its_probability(merge):
    rows, each = 20_000, [{"weight": 1.0, "density": 0.6, "epsilon": 0.2}]
    delta = torch.tensor([3.0, 1.0, -2.0, 4.0, 5.0]).repeat(rows, 1)
    found = merge("della", [delta], torch.zeros(rows, 5), each, rescale=False)
    assert set(found.unique().tolist()) <= {0.0, 3.0, 1.0, -2.0, 4.0, 5.0}
    kept = (found != 0).double().mean(0)
    expected = torch.tensor([0.6, 0.4, 0.5, 0.7, 0.8], dtype=torch.float64)
    # Five standard errors.
    assert torch.all((kept - expected).abs() < 5 * (expected * (1 - expected) / rows).sqrt())


def test_what_is_kept_makes_up_for_what_is_not(merge):
    torch.manual_seed(0)
    delta = torch.randn(50, 40)
    found = merge("della", [delta], torch.zeros(50, 40), [{"weight": 1.0, "density": 0.5}])
    assert found.abs().sum().item() == pytest.approx(delta.abs().sum().item(), rel=1e-5)


def test_the_seed_decides_and_neither_threads_nor_blocks_do(merge):
    torch.manual_seed(0)
    delta, base = torch.randn(300, 33), torch.zeros(300, 33)
    each = [{"weight": 1.0, "density": 0.5}]
    found = merge("della", [delta], base, each, seed=3)
    assert torch.equal(found, merge("della", [delta], base, each, seed=3, threads=2, elements=100))
    assert not torch.equal(found, merge("della", [delta], base, each, seed=4))


def test_two_models_draw_apart(merge):
    torch.manual_seed(0)
    delta, each = torch.randn(100, 33), {"weight": 1.0, "density": 0.5}
    found = merge("della", [delta, delta], torch.zeros(100, 33), [each] * 2, normalize=False, rescale=False)
    assert set((found / delta).unique().tolist()) == {0.0, 1.0, 2.0}


def test_a_density_of_1_keeps_all_and_one_of_0_none(merge):
    given, each = [[1.0, 2.0], [5.0, 5.0]], [{"weight": 1.0, "density": 1.0}, {"weight": 1.0, "density": 0.0}]
    assert merge("della", given, [0.0, 0.0], each).tolist() == [1.0, 2.0]


def test_probabilities_outside_0_to_1_are_refused(merge):
    with pytest.raises(InputError, match=r"0\.9 ± epsilon 0\.15 is not between 0 and 1"):
        merge("della", [[1.0]], [0.0], [{"weight": 1.0, "density": 0.9}])
