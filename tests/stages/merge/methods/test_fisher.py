"""`fisher`: weights by hand, and what it makes of real checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.artifacts.errors import InputError
from ingot.stages.merge.statistics import Statistic
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path


def test_elements_are_weighted_by_their_information(stored: Any, carry: Any) -> None:
    first, second = stored([1.0, 2.0, 4.0]), stored([3.0, 6.0, 8.0])
    first.statistic = Statistic(stored([1.0, 0.0, 0.0]))
    second.statistic = Statistic(stored([3.0, 2.0, 0.0]))
    # (1 + 9) / 4; the second alone; nobody feels the third, so it is averaged.
    assert carry("fisher", [first, second]).tolist() == [2.5, 6.0, 6.0]
    each = [{"weight": 3.0}, {"weight": 1.0}]
    assert carry("fisher", [first, second], each=each).tolist() == [2.0, 6.0, 5.0]


def test_without_any_information_it_is_the_average(merge: Any) -> None:
    assert merge("fisher", [[1.0, 2.0], [3.0, 6.0]]).tolist() == [2.0, 4.0]


def test_information_of_some_models_alone_is_refused(stored: Any, carry: Any) -> None:
    first, second = stored([1.0]), stored([3.0])
    first.statistic = Statistic(stored([1.0]))
    with pytest.raises(InputError, match="moved between vocabularies"):
        carry("fisher", [first, second])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_element_lies_between_the_models_and_one_model_twice_is_itself(
    family: str, merged: Any, sibling: Any, text: Path
) -> None:
    a, b = sibling(family, "a"), sibling(family, "b")
    settings = {"calibration": str(text), "samples": 4, "window": 16}
    found = merged("merge.fisher", {"models": [{"model": str(a)}, {"model": str(b)}], **settings})
    left, right, made = (load_file(each / "model.safetensors") for each in (a, b, found.path))
    differs = 0
    for name, value in made.items():
        low, high = torch.minimum(left[name], right[name]), torch.maximum(left[name], right[name])
        slack = 1e-6 * (high - low).abs() + 1e-6
        assert torch.all((value >= low - slack) & (value <= high + slack)), name
        differs += int(((value - (low + high) / 2).abs() > 0.1 * (high - low) + 1e-6).sum())
    assert differs > 1000  # it is no plain average
    twice = merged("merge.fisher", {"models": [{"model": str(a)}, {"model": str(a)}], **settings})
    for name, value in load_file(twice.path / "model.safetensors").items():
        torch.testing.assert_close(value, left[name], rtol=1e-6, atol=1e-7)
