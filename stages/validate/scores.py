"""One window's scores from a model's output: what is kept of the reference, and how an artifact compares.

Row t of a causal model's output predicts token t + 1, so a window of T tokens has T - 1 predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model.logits import Softmax, TopK, agreement, divergence
from .batches import blocks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One window's sums over its predictions: nll and kl in nat, top1 in tokens. NaN where an output was."""

    nll: float
    kl: float
    top1: int


def predictions(logits: Floats, ids: Ids, k: int) -> tuple[Doubles, TopK]:
    """Losses float64 [T - 1] and likeliest tokens from logits [T, vocabulary] and the window's ids [T]."""
    import numpy as np

    losses, tops = [], []
    for block in blocks(len(ids) - 1, logits.shape[1]):
        softmax = Softmax.of(logits[block])
        losses.append(softmax.nll(ids[1:][block]))
        tops.append(softmax.top(k))
    top = TopK(
        np.concatenate([part.ids for part in tops]),
        np.concatenate([part.log_probabilities for part in tops]),
        np.concatenate([part.tail for part in tops]),
    )
    return np.concatenate(losses), top


def compare(logits: Floats, ids: Ids, reference: TopK) -> Comparison:
    """An artifact's logits [T, vocabulary] for a window's ids [T] against the reference's T - 1
    predictions.
    """
    nll = kl = 0.0
    top1 = 0
    for block in blocks(len(ids) - 1, logits.shape[1]):
        softmax = Softmax.of(logits[block])
        expected = TopK(reference.ids[block], reference.log_probabilities[block], reference.tail[block])
        nll += float(softmax.nll(ids[1:][block]).sum())
        kl += float(divergence(expected, softmax).sum())
        top1 += int(agreement(expected, softmax).sum())
    return Comparison(nll, kl, top1)


def mean_cosine(reference: Floats, value: Floats) -> float:
    """The mean over tokens of the cosine between two hidden states, each [T, hidden]."""
    import numpy as np

    a, b = reference.astype(np.float64), value.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(cosines.mean())
