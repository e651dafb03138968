"""What is kept of a model's predictions: the loss, and the k likeliest tokens with the mass of all others.

A prediction is kept as the log-probabilities of its k likeliest tokens and the tail, the probability of all
other tokens together. Divergences are taken between such distributions of k + 1 outcomes. By the log-sum
inequality (Cover and Thomas, Elements of Information Theory, theorem 2.7.1) merging outcomes never raises a
Kullback-Leibler divergence, so the value is a lower bound of the full one, which it reaches at k =
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.integer]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

# A tail that the other model gives no probability at all would make the divergence infinite.
LEAST_MASS = 1e-30


@dataclass(frozen=True, eq=False)
class TopK:
    """n predictions, each by falling probability.

    ids: int32 [n, k].  log_probabilities: float32 [n, k], in nat.  tail: float32 [n], a probability.
    """

    ids: Ids
    log_probabilities: Floats
    tail: Floats


@dataclass(frozen=True, eq=False)
class Softmax:
    """The softmax of logits [n, vocabulary] float32, as far as it is needed.

    exponentials: exp(logits - highest), float32 [n, vocabulary].  total: their sums, float64 [n].  Sums run
    in float64 over the same float32 numbers, so that a tail is exact however small it is.
    """

    logits: Floats
    highest: Floats
    exponentials: Floats
    total: Doubles

    @staticmethod
    def of(logits: Floats) -> Softmax:
        """The softmax of each row; rows with a NaN or an infinite maximum give NaN."""
        import numpy as np

        with np.errstate(invalid="ignore", over="ignore"):
            highest = logits.max(axis=-1)
            exponentials = np.exp(logits - highest[:, None])
            return Softmax(logits, highest, exponentials, exponentials.sum(axis=-1, dtype=np.float64))

    def log_probabilities(self, ids: Ids) -> Doubles:
        """Log-probabilities of chosen tokens, in nat: ids [n, m] → float64 [n, m]."""
        import numpy as np

        with np.errstate(invalid="ignore"):
            chosen = np.take_along_axis(self.logits, ids, axis=-1).astype(np.float64)
            result: Doubles = chosen - self.highest[:, None] - np.log(self.total)[:, None]
        return result

    def nll(self, targets: Ids) -> Doubles:
        """Negative log-likelihood of one token each, in nat: targets [n] → float64 [n]."""
        return -self.log_probabilities(targets[:, None])[:, 0]

    def mass_outside(self, ids: Ids) -> Doubles:
        """The probability of all tokens but the chosen ones: ids [n, m] → float64 [n]."""
        import numpy as np

        inside = np.take_along_axis(self.exponentials, ids, axis=-1).sum(axis=-1, dtype=np.float64)
        result: Doubles = np.maximum(self.total - inside, 0.0) / self.total
        return result

    def top(self, k: int) -> TopK:
        """The k likeliest tokens of each row and the tail; all tokens where k is above the vocabulary."""
        import numpy as np

        vocabulary = self.logits.shape[-1]
        k = min(k, vocabulary)
        unordered = np.argpartition(self.logits, vocabulary - k, axis=-1)[:, vocabulary - k :]
        order = np.argsort(-np.take_along_axis(self.logits, unordered, axis=-1), axis=-1, kind="stable")
        ids = np.take_along_axis(unordered, order, axis=-1)
        tail = self.mass_outside(ids) if k < vocabulary else np.zeros(len(ids))
        return TopK(
            ids.astype(np.int32), self.log_probabilities(ids).astype(np.float32), tail.astype(np.float32)
        )


def divergence(reference: TopK, other: Softmax) -> Doubles:
    """KL(reference ‖ other) in nat over k + 1 outcomes, for n predictions: float64 [n].

    With K the reference's k likeliest tokens, p the reference, q the other and t the tail outside K:
    Σ_{i in K} p_i (log p_i - log q_i) + p_t (log p_t - log q_t), where q_t is at least 1e-30.
    """
    import numpy as np

    log_p = reference.log_probabilities.astype(np.float64)
    inside = np.sum(np.exp(log_p) * (log_p - other.log_probabilities(reference.ids)), axis=-1)
    p_tail = reference.tail.astype(np.float64)
    q_tail = np.maximum(other.mass_outside(reference.ids), LEAST_MASS)
    result: Doubles = inside + p_tail * (np.log(np.maximum(p_tail, LEAST_MASS)) - np.log(q_tail))
    return result


def agreement(reference: TopK, other: Softmax) -> npt.NDArray[np.bool_]:
    """Whether both hold the same token likeliest, for n predictions; never where the other gave NaN."""
    import numpy as np

    same: npt.NDArray[np.bool_] = other.logits.argmax(axis=-1) == reference.ids[:, 0]
    return same & np.isfinite(other.total)
