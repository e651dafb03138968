"""Scores of one window, in blocks of any size, and cosines: worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ingot.stages.model.logits import Softmax
from ingot.stages.validate import batches, scores
from ingot.stages.validate.quality import perplexity

# Three tokens, so two predictions; the last row of logits predicts nothing that is known.
PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [1 / 3, 1 / 3, 1 / 3]], np.float32)
LOGITS = np.log(PROBABILITIES)
IDS = np.array([1, 0, 2])


def test_a_windows_losses_are_of_the_tokens_that_follow() -> None:
    losses, top = scores.predictions(LOGITS, IDS, 1)
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4 / 3)], abs=1e-6)
    assert top.ids.tolist() == [[0], [2]]
    assert top.tail.tolist() == pytest.approx([0.5, 0.25], abs=1e-6)


def test_a_comparison_sums_over_predictions() -> None:
    # Reference rows: (½, ¼, ¼) and uniform; k = 1 keeps ½ | ½ and ⅓ | ⅔.
    reference = Softmax.of(np.log(np.array([[0.5, 0.25, 0.25], [0.34, 0.33, 0.33]], np.float32))).top(1)
    found = scores.compare(LOGITS, IDS, reference)
    assert found.nll == pytest.approx(math.log(2) + math.log(4 / 3), abs=1e-6)
    second = 0.34 * math.log(0.34 / 0.125) + 0.66 * math.log(0.66 / 0.875)
    assert found.kl == pytest.approx(second, abs=1e-6)
    assert found.top1 == 1


@pytest.mark.parametrize("block_bytes", [1, 40, 4 * 300 * 7])
def test_blocks_of_any_size_give_the_same_scores(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    random = np.random.default_rng(1)
    logits = random.standard_normal((20, 300), dtype=np.float32)
    ids = random.integers(0, 300, 20)
    losses, top = scores.predictions(logits, ids, 5)
    whole = scores.compare(logits[::-1], ids, top)
    monkeypatch.setattr(batches, "BLOCK_BYTES", block_bytes)
    again, top_again = scores.predictions(logits, ids, 5)
    np.testing.assert_array_equal(again, losses)
    np.testing.assert_array_equal(top_again.ids, top.ids)
    parts = scores.compare(logits[::-1], ids, top)
    assert (parts.nll, parts.kl) == pytest.approx((whole.nll, whole.kl), rel=1e-12)
    assert parts.top1 == whole.top1


def test_a_window_with_an_output_that_is_not_a_number_has_no_sums() -> None:
    broken = LOGITS.copy()
    broken[1, 0] = np.nan
    found = scores.compare(broken, IDS, Softmax.of(LOGITS[:2]).top(2))
    assert math.isnan(found.nll)
    assert math.isnan(found.kl)
    assert found.top1 == 1


def test_the_cosine_is_a_mean_over_tokens() -> None:
    reference = np.array([[1, 0], [0, 2], [3, 0], [1, 1]], np.float32)
    value = np.array([[2, 0], [0, -1], [0, 5], [1, 0]], np.float32)
    assert scores.mean_cosine(reference, value) == pytest.approx((1 - 1 + 0 + math.sqrt(0.5)) / 4)


def test_a_hidden_state_of_zeros_has_no_cosine() -> None:
    assert math.isnan(scores.mean_cosine(np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)))


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert perplexity(1e6, 10) == math.inf
    assert math.isnan(perplexity(math.nan, 10))
