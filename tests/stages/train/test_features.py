"""Layer maps and errors of features, by hand."""

from __future__ import annotations

import pytest
import torch
from ingot.artifacts.errors import RecipeError
from ingot.stages.train.features import HiddenStates, attention_error, layer_map
from ingot.stages.train.objective import Batch


def batch(attended=None) -> Batch:
    ids = torch.zeros(1, 2, dtype=torch.int64)
    return Batch(ids, torch.tensor([[False, True]]), attended, torch.tensor([0]))


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
    found = HiddenStates([(0, 0)], 2, 2)([student], [teacher], batch())
    assert found.item() == pytest.approx(16 / 25)


def test_padding_counts_for_nothing():
    teacher, student = torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[[3.0, 0.0], [1.0, 1.0]]])
    found = HiddenStates([(0, 0)], 2, 2)([student], [teacher], batch(torch.tensor([[True, False]])))
    assert found.item() == pytest.approx(16 / 25)


def test_adapters_take_narrow_states_to_the_width_of_the_teacher():
    states = HiddenStates([(0, 0)], 2, 3)
    with torch.no_grad():
        states.adapters[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
    student = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]]])
    assert states([student], [teacher], batch()).item() == 0


def test_attention_maps_are_compared_head_by_head_or_by_their_means():
    one = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    other = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    # ¼ + ¼ at the second of two positions.
    assert attention_error([(0, 0)], [one], [other], batch()).item() == pytest.approx(0.25)
    both = torch.cat([one, other], dim=1)
    # The mean of two heads is half as far from either.
    assert attention_error([(0, 0)], [one], [both], batch()).item() == pytest.approx(0.25 / 4)
