"""Layer maps and errors of features, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ingot.artifacts.errors import RecipeError
from ingot.stages.train.features import HiddenStates, attention_error
from ingot.stages.train.halves import Half, layer_map
from ingot.stages.train.objective import Batch


def batch(attended=None) -> Batch:
    ids = torch.zeros(1, 2, dtype=torch.int64)
    return Batch(ids, torch.tensor([[False, True]]), attended, torch.tensor([0]))


ONE = (Half(((0, 0),), (2, 2)),)


def states(value: torch.Tensor) -> SimpleNamespace:
    """What a network gives whose only layer's states these are, behind those of its embedding."""
    return SimpleNamespace(hidden_states=[torch.full_like(value, 9.0), value])


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 6, (1, 3, 5)),
        (6, 6, (0, 1, 2, 3, 4, 5)),
        (4, 6, (1, 2, 3, 5)),
        (1, 12, (11,)),
        (4, 2, (0, 0, 1, 1)),
    ],
)
def test_layers_are_spread_evenly_and_the_last_is_like_the_last(student, teacher, expected):
    assert layer_map(None, student, teacher) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [((0,), "names 1 layers, and the student has 2"), ((0, 6), "no layer 6"), ((0, -1), "-1")],
)
def test_maps_that_do_not_fit_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        layer_map(given, 2, 6)


def test_errors_of_states_are_relative_to_the_teacher():
    teacher, student = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.tensor([[[3.0, 0.0], [0.0, 0.0]]])
    # Of 16 / 4 the mean square of 25 / 4.
    found = HiddenStates(ONE)(states(student), states(teacher), batch())
    assert found.item() == pytest.approx(16 / 25)


def test_padding_counts_for_nothing():
    teacher, student = torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[[3.0, 0.0], [1.0, 1.0]]])
    padded = batch(torch.tensor([[True, False]]))
    found = HiddenStates(ONE)(states(student), states(teacher), padded)
    assert found.item() == pytest.approx(16 / 25)


def test_adapters_take_narrow_states_to_the_width_of_the_teacher():
    error = HiddenStates([Half(((0, 0),), (2, 3))])
    with torch.no_grad():
        error.adapters[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
    student = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]]])
    assert error(states(student), states(teacher), batch()).item() == 0


def test_attention_maps_are_compared_head_by_head_or_by_their_means():
    one = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    other = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    # ¼ + ¼ at the second of two positions.
    maps = [SimpleNamespace(attentions=[each]) for each in (one, other, torch.cat([one, other], dim=1))]
    assert attention_error(ONE, maps[0], maps[1], batch()).item() == pytest.approx(0.25)
    # The mean of two heads is half as far from either.
    assert attention_error(ONE, maps[0], maps[2], batch()).item() == pytest.approx(0.25 / 4)
