"""Losses, likeliest tokens and divergences: worked by hand, against torch, and as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.stages.model.logits import Softmax, TopK, agreement, divergence

P = [0.5, 0.25, 0.125, 0.125]
Q = [0.25, 0.25, 0.25, 0.25]


def softmax(*rows: list[float]) -> Softmax:
    """Logits that give these probabilities; any constant may be added to a row."""
    return Softmax.of(np.log(np.array(rows, np.float32)) + np.float32(3.5))


def test_the_loss_is_the_negative_log_of_the_probability() -> None:
    losses = softmax(P, Q).nll(np.array([2, 0]))
    assert losses.tolist() == pytest.approx([math.log(8), math.log(4)], abs=1e-6)


def test_the_likeliest_tokens_come_in_order_and_the_tail_is_the_rest() -> None:
    top = softmax([0.1, 0.6, 0.05, 0.25]).top(2)
    assert top.ids.tolist() == [[1, 3]]
    assert np.exp(top.log_probabilities[0]).tolist() == pytest.approx([0.6, 0.25], abs=1e-6)
    assert top.tail.tolist() == pytest.approx([0.15], abs=1e-6)


def test_more_than_the_vocabulary_is_the_vocabulary_with_an_empty_tail() -> None:
    top = softmax(P).top(9)
    assert sorted(top.ids[0].tolist()) == [0, 1, 2, 3]
    assert top.tail.tolist() == [0.0]


def test_the_divergence_over_all_tokens_is_the_one_worked_by_hand() -> None:
    # ½ ln 2 + ¼ ln 1 + ⅛ ln ½ + ⅛ ln ½ = ¼ ln 2
    found = divergence(softmax(P).top(4), softmax(Q))
    assert found.tolist() == pytest.approx([math.log(2) / 4], abs=1e-6)


def test_the_divergence_takes_the_tail_as_one_outcome() -> None:
    # k = 1: ½ ln (½ / ¼) + ½ ln (½ / ¾) = ½ ln (4 / 3)
    found = divergence(softmax(P).top(1), softmax(Q))
    assert found.tolist() == pytest.approx([math.log(4 / 3) / 2], abs=1e-6)


def test_a_tail_that_the_other_model_rules_out_costs_much_and_stays_finite() -> None:
    certain = Softmax.of(np.array([[0.0, -np.inf, -np.inf]], np.float32))
    found = divergence(softmax([0.5, 0.25, 0.25]).top(1), certain)
    # ½ ln ½ + ½ ln (½ / 1e-30)
    assert found.tolist() == pytest.approx([math.log(0.5) + 15 * math.log(10)], rel=1e-5)


def test_tails_far_below_the_precision_of_float32_are_kept() -> None:
    logits = np.array([[0.0, -40.0, -40.0]], np.float32)
    assert Softmax.of(logits).top(1).tail[0] == pytest.approx(2 * math.exp(-40), rel=1e-5)


def test_agreement_compares_the_likeliest_tokens() -> None:
    reference = softmax(P, [0.1, 0.2, 0.3, 0.4]).top(2)
    assert agreement(reference, softmax(P, P)).tolist() == [True, False]


def test_outputs_that_are_not_numbers_give_nan_and_never_agree() -> None:
    reference = softmax(P, P, P).top(2)
    nan, inf = float("nan"), float("inf")
    broken = Softmax.of(np.array([[nan, 0, 0, 0], [inf, 0, 0, 0], [nan] * 4], np.float32))
    assert np.isnan(broken.nll(np.zeros(3, int))).all()
    assert np.isnan(divergence(reference, broken)).all()
    assert not agreement(reference, broken).any()


scores = st.lists(st.integers(-60, 60), min_size=6, max_size=6)


@settings(deadline=None)
@given(scores, scores, st.integers(1, 6))
def test_divergences_are_at_least_zero_and_grow_with_k_up_to_the_full_one(
    ours: list[int], theirs: list[int], k: int
) -> None:
    import torch

    p = Softmax.of(np.array([ours], np.float32) / 8)
    q = Softmax.of(np.array([theirs], np.float32) / 8)
    found = float(divergence(p.top(k), q)[0])
    log_p = torch.log_softmax(torch.tensor(ours, dtype=torch.float64) / 8, -1)
    log_q = torch.log_softmax(torch.tensor(theirs, dtype=torch.float64) / 8, -1)
    full = float(torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum"))
    assert -1e-6 <= found <= full + 1e-5
    if k == 6:
        assert found == pytest.approx(full, abs=1e-5)
    if k < 6:
        assert found <= float(divergence(p.top(k + 1), q)[0]) + 1e-6


@settings(deadline=None)
@given(st.lists(scores, min_size=1, max_size=4), st.integers(0, 5))
def test_losses_are_torchs_cross_entropy(rows: list[list[int]], target: int) -> None:
    import torch

    logits = np.array(rows, np.float32) / 4
    targets = np.full(len(rows), target)
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets), reduction="none"
    )
    np.testing.assert_allclose(Softmax.of(logits).nll(targets), theirs.numpy(), atol=1e-5)


def test_kept_predictions_are_plain_numbers_on_every_machine() -> None:
    top = softmax(P).top(2)
    assert isinstance(top, TopK)
    assert (top.ids.dtype, top.log_probabilities.dtype, top.tail.dtype) == (np.int32, np.float32, np.float32)
