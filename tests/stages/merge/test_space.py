"""What a search may choose, and the merge at a point of it."""

from __future__ import annotations

from typing import Any

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.stages.merge import method
from ingot.stages.merge.config import read_short
from ingot.stages.merge.references import Given
from ingot.stages.merge.space import Axis, Space

BOTH = {"base": "model1", "models": [{"model": "model2"}, {"model": "model3"}]}


def space(name: str, values: Any, ranges: Any, knots: int = 1) -> Space:
    found = method.get(name)
    return Space.of(read_short(values, found, Given(), None), found, ranges, knots)


def test_a_weight_is_chosen_for_each_model_and_what_all_share_once() -> None:
    found = space("ties", BOTH, {"weight": (0.0, 1.5), "lambda": (0.5, 2.0)})
    assert found.axes == (
        Axis("weight", "model2", 0, 0.0, 1.5),
        Axis("weight", "model3", 0, 0.0, 1.5),
        Axis("lambda", None, 0, 0.5, 2.0),
    )
    made = found.at([0.25, 1.0, 1.25])
    assert [(each.model, each.parameters) for each in made.members()] == [
        ("model2", {"weight": 0.25}), ("model3", {"weight": 1.0}),
    ]  # fmt: skip
    assert made.parameters == {"lambda": 1.25}
    assert found.settings([0.25, 1.0, 1.25]) == {
        ("weight", "model2"): 0.25, ("weight", "model3"): 1.0, ("lambda", None): 1.25,
    }  # fmt: skip


def test_knots_are_a_list_over_the_layers() -> None:
    found = space("linear", {"models": ["model1", "model2"]}, {"weight": (0.0, 1.0)}, knots=3)
    assert len(found.axes) == 6
    made = found.at([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])
    assert [each.parameters["weight"] for each in made.members()] == [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]


def test_anchors_are_the_middle_all_alike_and_each_model_alone() -> None:
    found = space("ties", BOTH, {"weight": (0.0, 1.5), "density": (0.2, 0.8)})
    # weight of two models, then density of two
    assert list(found.anchors()) == [
        (0.75, 0.75, 0.5, 0.5), (0.5, 0.5, 0.8, 0.8), (1.0, 0.0, 0.8, 0.8), (0.0, 1.0, 0.8, 0.8),
    ]  # fmt: skip
    found = space("nearswap", {"base": "model1", "models": ["model2"]}, {"t": (0.0, 1.0)})
    assert list(found.anchors()) == [(0.5,)]


@pytest.mark.parametrize(
    ("name", "values", "ranges", "what"),
    [
        ("ties", BOTH, {"t": (0, 1)}, "ties has no parameter 't'"),
        ("ties", BOTH, {"density": (0.5, 1.5)}, "ranges.density: .* reaches past ties's own"),
        ("ties", BOTH, {"weight": (1.0, 1.0)}, "ranges.weight: .* is no range"),
        ("ties", BOTH, {"normalize": (0, 1)}, "ranges.normalize: ties takes no number there"),
        ("ties", {**BOTH, "density": 0.5}, {"density": (0, 1)}, "the merge gives density a value too"),
        ("ties", {**BOTH, "models": [{"model": "model2", "weight": 1.0}]}, {"weight": (0, 1)},
         "the merge gives weight a value too"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(name: str, values: Any, ranges: Any, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        space(name, values, ranges)
