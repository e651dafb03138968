"""Choosing tokens: hand-worked distributions, and transformers' own filters as the second opinion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.artifacts.errors import InputError, StageError
from ingot.targets.runtimes import sampling
from ingot.targets.runtimes.base import Sampling

LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))


def distribution(**values: float) -> list[float]:
    return sampling.probabilities(LOGITS, Sampling(**{"temperature": 1.0, **values}))[0].tolist()


def test_temperature_one_gives_the_softmax() -> None:
    assert distribution() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-6)


def test_temperature_one_half_squares_the_probabilities() -> None:
    squares = [0.25, 0.09, 0.0225, 0.0025]
    assert distribution(temperature=0.5) == pytest.approx([p / 0.365 for p in squares], abs=1e-6)


def test_top_k_keeps_the_k_likeliest_in_proportion() -> None:
    assert distribution(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-6)


def test_top_p_keeps_the_fewest_tokens_that_reach_p() -> None:
    assert distribution(top_p=0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-6)
    assert distribution(top_p=0.85) == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=1e-6)


def test_top_p_below_the_likeliest_token_keeps_that_token() -> None:
    assert distribution(top_p=0.01) == pytest.approx([1, 0, 0, 0])


def test_top_p_takes_no_token_more_when_it_is_reached_exactly() -> None:
    even = sampling.probabilities(np.zeros((1, 2), np.float32), Sampling(temperature=1.0, top_p=0.5))
    assert even.tolist() == [[1, 0]]


def test_top_k_comes_before_top_p() -> None:
    # Of the two likeliest, the first has 0.625: it alone reaches 0.6, which it would not among all four.
    assert distribution(top_k=2, top_p=0.6) == pytest.approx([1, 0, 0, 0])


def test_a_tiny_temperature_is_greedy_and_not_a_fault() -> None:
    assert distribution(temperature=1e-300) == pytest.approx([1, 0, 0, 0])


def test_tokens_that_the_model_forbids_are_never_drawn() -> None:
    logits = np.array([[-np.inf, 0.0, -np.inf]], np.float32)
    settings_ = Sampling(temperature=1.0, top_k=2, top_p=0.9)
    assert sampling.probabilities(logits, settings_)[0].tolist() == pytest.approx([0, 1, 0])


@pytest.mark.parametrize(
    ("draw", "token"),
    [(0.0, 0), (0.4999, 0), (0.5001, 1), (0.7999, 1), (0.8001, 2), (0.9501, 3), (1 - 2**-53, 3)],
)
def test_a_draw_falls_into_the_token_whose_share_holds_it(draw: float, token: int) -> None:
    drawn = sampling.next_tokens(LOGITS, Sampling(temperature=1.0), np.array([draw]))
    assert drawn.tolist() == [token]


def test_draws_follow_the_distribution() -> None:
    draws = (np.arange(1000) + 0.5) / 1000
    drawn = sampling.draw(np.tile([[0.2, 0.0, 0.8]], (1000, 1)), draws)
    assert np.bincount(drawn, minlength=3).tolist() == [200, 0, 800]


def test_the_highest_draw_falls_into_the_last_token_where_sums_round_below_one() -> None:
    assert np.cumsum([0.1] * 10)[-1] < 1
    assert sampling.draw(np.full((1, 10), 0.1), np.array([1 - 2**-53])).tolist() == [9]


def test_greedy_takes_the_likeliest_whatever_was_drawn() -> None:
    logits = np.array([[0.1, 3.0, 3.0], [9.0, 1.0, 1.0]], np.float32)
    assert sampling.next_tokens(logits, Sampling(), np.array([0.99, 0.99])).tolist() == [1, 0]


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(StageError, match="not numbers"):
        sampling.next_tokens(np.array([[0.0, np.nan]], np.float32), Sampling(), np.zeros(1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("max_new_tokens", 0),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        sampling.check(Sampling(**{name: value}))


rows = st.lists(st.integers(-40, 40), min_size=5, max_size=5, unique=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(rows, min_size=1, max_size=3),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.integers(0, 7),
    st.sampled_from([0.05, 0.3, 0.6, 0.9, 1.0]),
)
def test_filters_agree_with_those_of_transformers(
    scores: list[list[int]], temperature: float, top_k: int, top_p: float
) -> None:
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.array(scores, np.float32) / 4
    theirs = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits).double())
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    ours = sampling.probabilities(logits, Sampling(1, temperature, top_k, top_p))
    np.testing.assert_allclose(ours, theirs.softmax(-1).numpy(), atol=1e-9)
