"""Divergences between a teacher's and a student's predictions, in nat, with gradients for the student.

Both may be whole distributions over a vocabulary or, as caches keep them, over the teacher's k likeliest
tokens and one outcome more, all others together (see `stages/model/logits.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FORWARD, REVERSE, JS = "forward", "reverse", "js"
KINDS = (FORWARD, REVERSE, JS)
# The mass of all tokens outside of the k likeliest, at the least: float32 sums of shares know no better.
LEAST_TAIL = 1e-6


@dataclass(frozen=True, eq=False)
class Likeliest:
    """The likeliest tokens of n predictions. ids: int64 [n, k].  log_probabilities: float32 [n, k], in nat.

    tail: float32 [n], the probability of all other tokens.
    """

    ids: torch.Tensor
    log_probabilities: torch.Tensor
    tail: torch.Tensor

    @staticmethod
    def of(log_probabilities: torch.Tensor, k: int) -> Likeliest:
        """Of whole distributions [n, vocabulary]."""
        found, ids = log_probabilities.topk(min(k, log_probabilities.shape[-1]), dim=-1)
        return Likeliest(ids, found, 1 - found.exp().sum(-1))

    def outcomes(self) -> torch.Tensor:
        """Log-probabilities of the k + 1 outcomes, float32 [n, k + 1]."""
        return _with_tail(self.log_probabilities, self.tail)

    def of_student(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """The same outcomes of a student's whole distributions [n, vocabulary]: [n, k + 1]."""
        found = log_probabilities.gather(-1, self.ids)
        return _with_tail(found, 1 - found.exp().sum(-1))


def divergence(kind: str, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """The sum over n predictions of a divergence between log-probabilities [n, outcomes]: a scalar.

    forward: KL(teacher ‖ student) (arXiv:1503.02531), which covers all that the teacher does.  reverse:
    KL(student ‖ teacher) (MiniLLM, arXiv:2306.08543), which keeps to what it does most.  js: half the sum of
    both to their mean, at most ln 2.
    """
    if kind == FORWARD:
        return (teacher.exp() * (teacher - student)).sum()
    if kind == REVERSE:
        return (student.exp() * (student - teacher)).sum()
    mean = torch.logaddexp(teacher, student) - math.log(2)
    return (teacher.exp() * (teacher - mean) + student.exp() * (student - mean)).sum() / 2


def _with_tail(log_probabilities: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
    return torch.cat([log_probabilities, tail.clamp_min(LEAST_TAIL).log()[:, None]], dim=-1)
