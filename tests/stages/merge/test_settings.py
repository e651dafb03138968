"""Gradients and filters against values worked out by hand from what mergekit says of them."""

from __future__ import annotations

import pytest
from ingot.stages.merge.settings import first_of, value_of

ATTENTION, MLP = "model.layers.3.self_attn.q_proj.weight", "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("points", "t", "expected"),
    [
        # Three points stand at 0, 1/2 and 1.
        ([0, 1, 0.5], 0.0, 0.0),
        ([0, 1, 0.5], 0.25, 0.5),
        ([0, 1, 0.5], 0.5, 1.0),
        ([0, 1, 0.5], 0.75, 0.75),
        ([0, 1, 0.5], 1.0, 0.5),
        # Five points over seven layers: layer 4 is at t = 4/6, so at 2.667 of the way over the four spans.
        ([0, 0.5, 0.3, 0.7, 1], 4 / 6, 0.3 + (8 / 3 - 2) * 0.4),
        ([0.7], 0.3, 0.7),
    ],
)
def test_a_list_is_interpolated_between_evenly_spaced_points(
    points: list[float], t: float, expected: float
) -> None:
    assert value_of(points, "", t) == pytest.approx(expected, abs=1e-15)


def test_the_first_filter_that_occurs_in_the_name_holds() -> None:
    setting = [{"filter": "self_attn", "value": [0, 1]}, {"filter": "attn", "value": 9}, {"value": 0.5}]
    assert value_of(setting, ATTENTION, 0.25) == 0.25
    assert value_of(setting, MLP, 0.25) == 0.5


def test_where_no_filter_fits_the_next_level_is_asked_and_at_last_nothing_is_said() -> None:
    inner, outer = (
        {"weight": [{"filter": "self_attn", "value": 1.0}]},
        {"weight": [{"filter": "mlp", "value": 0}]},
    )
    assert first_of("weight", [inner, outer], ATTENTION, 0) == 1.0
    assert first_of("weight", [inner, outer], MLP, 0) == 0
    assert first_of("weight", [inner, outer], "lm_head.weight", 0) is None
