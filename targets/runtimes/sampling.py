"""Choosing the next token from logits: temperature, top-k, top-p, then a draw. Pure functions over rows.

Filters apply in the order of transformers' generation: temperature, the k likeliest (Fan et al. 2018,
arXiv:1805.04833), then the nucleus (Holtzman et al. 2020, arXiv:1904.09751).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError, StageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .base import Sampling

    Ids = npt.NDArray[np.int64]
    Scores = npt.NDArray[np.float64]
    Logits = npt.NDArray[np.floating]


def check(sampling: Sampling) -> None:
    """Raises InputError for a setting out of its range."""
    rules = (
        ("max_new_tokens", sampling.max_new_tokens, sampling.max_new_tokens >= 1, "at least 1"),
        ("temperature", sampling.temperature, 0 <= sampling.temperature < float("inf"), "0 (greedy) or more"),
        ("top_k", sampling.top_k, sampling.top_k >= 0, "0 (no limit) or more"),
        ("top_p", sampling.top_p, 0 < sampling.top_p <= 1, "above 0 and at most 1"),
        ("seed", sampling.seed, sampling.seed >= 0, "0 or more"),
    )
    for name, value, sound, range_ in rules:
        if not sound:
            raise InputError(f"{name}: {value} is out of range", fix=f"it must be {range_}")


def next_tokens(logits: Logits, sampling: Sampling, draws: Scores) -> Ids:
    """One token a row: logits [batch, vocabulary], draws uniform in [0, 1) [batch] → int64 [batch].

    Temperature 0 takes the likeliest (the lowest id among equals) and leaves the draws unused. Raises
    StageError for NaN logits.
    """
    import numpy as np

    if np.isnan(logits).any():
        raise StageError("the model gave logits that are not numbers", fix="measure it with validate.quality")
    if sampling.temperature == 0:
        likeliest: Ids = logits.argmax(axis=-1).astype(np.int64)
        return likeliest
    return draw(probabilities(logits, sampling), draws)


def probabilities(logits: Logits, sampling: Sampling) -> Scores:
    """The distribution drawn from, at a temperature above 0: float64 [batch, vocabulary], rows sum to 1."""
    import numpy as np

    # The highest score is subtracted first: dividing by a tiny temperature must not overflow into inf - inf.
    scores = logits.astype(np.float64)
    scores = (scores - scores.max(axis=-1, keepdims=True)) / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.top_p < 1:
        scores = keep_top_p(scores, sampling.top_p)
    return softmax(scores)


def softmax(scores: Scores) -> Scores:
    """Rows that sum to 1; scores of -inf give 0."""
    import numpy as np

    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Scores = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def keep_top_k(scores: Scores, k: int) -> Scores:
    """-inf for all but the k highest scores of a row, and those equal to the k-th."""
    import numpy as np

    kth = np.partition(scores, -k, axis=-1)[..., -k, None]
    return np.where(scores < kth, -np.inf, scores)


def keep_top_p(scores: Scores, p: float) -> Scores:
    """-inf for all but the fewest likeliest tokens of a row whose probabilities reach ``p`` together."""
    import numpy as np

    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(softmax(scores), order, axis=-1)
    # A token stays when those before it do not reach p yet, so the likeliest always does.
    before = np.cumsum(ranked, axis=-1) - ranked
    kept = np.zeros_like(scores, dtype=bool)
    np.put_along_axis(kept, order, before < p, axis=-1)
    return np.where(kept, scores, -np.inf)


def draw(distribution: Scores, draws: Scores) -> Ids:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds the row's draw."""
    import numpy as np

    cumulative = np.cumsum(distribution, axis=-1)
    # Rounding may leave the last sum below 1: scaled by it, a draw never passes the last possible token.
    reached = cumulative > (draws * cumulative[:, -1])[:, None]
    drawn: Ids = reached.argmax(axis=-1).astype(np.int64)
    return drawn
