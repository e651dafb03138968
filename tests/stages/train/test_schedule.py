"""Learning rates by hand, and what all schedules have in common."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.stages.train.params import SCHEDULES
from ingot.stages.train.schedule import share


def run(kind: str, steps: int, warmup: float) -> list[float]:
    return [share(kind, step, steps, warmup) for step in range(steps)]


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        # Two of ten steps rise to the height; eighths of what is left follow.
        ("linear", 0.2, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("constant", 0.2, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        # ½(1 + cos πp) at p = 0, ¼, ½, ¾.
        ("cosine", 0.0, [1, 0.8535533905932737, 0.5, 0.14644660940672627]),
        # Half a cosine from 1/25 to 1 in two steps: its middle, then the height; then down to 1/250,000.
        ("one-cycle", 0.5, [(1 + 1 / 25) / 2, 1, 1, (1 + 1 / 250_000) / 2]),
    ],
)
def test_a_schedule_is_what_a_hand_works_out(kind, warmup, expected):
    assert run(kind, len(expected), warmup) == pytest.approx(expected, rel=1e-12)


@given(st.sampled_from(SCHEDULES), st.integers(1, 50), st.floats(0, 1))
def test_shares_rise_to_the_height_and_never_rise_again(kind, steps, warmup):
    found = run(kind, steps, warmup)
    assert all(0 < each <= 1 + 1e-12 for each in found)
    assert max(found) == pytest.approx(1)
    top = found.index(max(found))
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
