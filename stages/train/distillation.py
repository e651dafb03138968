"""What a student learns of its teacher: its predictions, and what its layers give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional

from .divergence import Likeliest, divergence
from .features import HiddenStates, attention_error
from .objective import Loss, Objective, next_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .halves import Half
    from .objective import Batch
    from .teacher_cache import Cache


@dataclass(frozen=True)
class Terms:
    """The weights of a loss's terms and how they are taken.

    The loss of a token is predictions·(alpha·T²·D(teacher, student) + (1 - alpha)·cross-entropy) +
    hidden·error of hidden states + attention·error of attention maps, D at the temperature T; T² keeps its
    gradients as large at any temperature (arXiv:1503.02531, section 2).  predictions: 0 or 1.
    """

    kind: str
    temperature: float
    alpha: float
    hidden: float
    attention: float
    predictions: bool = True


class Distillation(Objective):
    """The loss of a student against a teacher. teacher: a network that is not trained, on the same device.

    halves: the layers whose hidden states and attention are compared.  cache: of the teacher's predictions;
    None computes them every time.
    """

    def __init__(
        self,
        terms: Terms,
        teacher: Any,
        halves: Sequence[Half] = (),
        cache: Cache | None = None,
        top_k: int = 0,
    ) -> None:
        super().__init__()
        self._terms, self._halves, self._cache, self._top_k = terms, tuple(halves), cache, top_k
        # Not a module of this one: it is neither trained nor synchronised.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.states = HiddenStates(self._halves) if terms.hidden else None

    def loss(self, network: torch.nn.Module, batch: Batch) -> Loss:
        """Its terms, each a mean over what it is of, times the batch's predicted tokens."""
        terms, count = self._terms, int(batch.predicted.sum())
        student = batch.call(network, **self._options())
        known = self._known(batch)
        teacher = None if known is not None else self._taught(batch)
        parts: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=batch.ids.device)
        if terms.predictions:
            found, parts = self._predictions(batch, student.logits, known, teacher)
            total = total + found
        if self.states is not None and teacher is not None:
            parts["hidden"] = count * self.states(student, teacher, batch)
            total = total + terms.hidden * parts["hidden"]
        if terms.attention and teacher is not None:
            parts["attention"] = count * attention_error(self._halves, student, teacher, batch)
            total = total + terms.attention * parts["attention"]
        return Loss(total, parts)

    def selection(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The next token's loss; of networks that predict none, the error of the last hidden state."""
        if self.states is None or self._terms.predictions:
            return next_token(network, batch)
        student, teacher = batch.call(network, output_hidden_states=True), self._taught(batch)
        return int(batch.predicted.sum()) * self.states.last(student, teacher, batch)

    def _predictions(
        self, batch: Batch, logits: torch.Tensor, known: Likeliest | None, teacher: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = self._terms
        own = batch.predictions(logits).float()
        scaled = functional.log_softmax(own / terms.temperature, -1)
        if known is None:
            scores = batch.predictions(teacher.logits).float()
            whole = functional.log_softmax(scores / terms.temperature, -1)
            known = Likeliest.of(whole, self._top_k) if self._top_k else None
            if known is not None and self._cache is not None and self.training:
                self._cache.put(batch.which, known)
            outcomes = (whole, scaled)
        if known is not None:
            outcomes = (known.outcomes(), known.of_student(scaled))
        taught = divergence(terms.kind, *outcomes)
        parts = {"divergence": taught}
        total = terms.alpha * terms.temperature**2 * taught
        if terms.alpha < 1:
            parts["next_token"] = functional.cross_entropy(own, batch.targets, reduction="sum")
            total = total + (1 - terms.alpha) * parts["next_token"]
        return total, parts

    def _known(self, batch: Batch) -> Likeliest | None:
        if self._cache is None or not self.training:
            return None
        return self._cache.get(batch.which, batch.ids.device)

    def _taught(self, batch: Batch) -> Any:
        with torch.no_grad():
            return batch.call(self._teacher[0], **self._options())

    def _options(self) -> dict[str, bool]:
        terms = self._terms
        return {
            **({"use_cache": False} if terms.predictions else {}),
            **({"output_hidden_states": True} if terms.hidden else {}),
            **({"output_attentions": True} if terms.attention else {}),
        }
