"""Losses between what layers of a teacher and of a student give: hidden states and attention maps.

As in TinyBERT (arXiv:1909.10351, equations 7 to 9): mean squared errors between the hidden states of paired
layers, through a linear map where widths differ, and between their attention maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .halves import DECODER, ENCODER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .halves import Half
    from .objective import Batch

ATTENTIONS, CROSS_ATTENTIONS = "attentions", "cross_attentions"


class HiddenStates(torch.nn.Module):
    """The error of hidden states, relative to the teacher's mean square; adapters are trained along."""

    def __init__(self, halves: Sequence[Half]) -> None:
        super().__init__()
        self._halves = tuple(halves)
        self.adapters = torch.nn.ModuleList(
            _adapter(*half.widths) for half in self._halves for _ in half.pairs
        )

    def forward(self, student: Any, teacher: Any, batch: Batch) -> torch.Tensor:
        """The mean over paired layers, positions and features, in units of the teacher's mean square.

        student, teacher: what networks of transformers give, hidden states among it.
        """
        losses, adapters = [], iter(self.adapters)
        for half in self._halves:
            ours, theirs = _states(student, half), _states(teacher, half)
            for own, other in half.pairs:
                # The embedding's comes first.
                adapted = next(adapters)(ours[own + 1])
                losses.append(_relative(adapted, theirs[other + 1], _counted(batch, half)))
        return torch.stack(losses).mean()

    def last(self, student: Any, teacher: Any, batch: Batch) -> torch.Tensor:
        """The same error of the last layers' states alone."""
        half = self._halves[-1]
        adapted = self.adapters[-1](_states(student, half)[-1])
        return _relative(adapted, _states(teacher, half)[-1], _counted(batch, half))


def attention_error(halves: Sequence[Half], student: Any, teacher: Any, batch: Batch) -> torch.Tensor:
    """The squared error of attention maps [rows, heads, length, keys], summed over keys, mean elsewhere.

    Of a decoder with an encoder, those over what the encoder gave count as those over its own positions do.
    Where the numbers of heads differ, their means over heads are compared.
    """
    losses = []
    for half in halves:
        for kind in _maps(half):
            ours, theirs = getattr(student, kind), getattr(teacher, kind)
            for own, other in half.pairs:
                mine, taught = ours[own].float(), theirs[other].float()
                if mine.shape[1] != taught.shape[1]:
                    mine, taught = mine.mean(1, keepdim=True), taught.mean(1, keepdim=True)
                errors = (mine - taught).square().sum(-1).mean(1)
                losses.append(_at(errors[..., None], _counted(batch, half)).mean())
    return torch.stack(losses).mean()


def _adapter(student: int, teacher: int) -> torch.nn.Module:
    """What takes states of one width to another: nothing where they are the same."""
    if student == teacher:
        return torch.nn.Identity()
    adapter = torch.nn.Linear(student, teacher, bias=False)
    torch.nn.init.orthogonal_(adapter.weight)
    return adapter


def _states(outputs: Any, half: Half) -> Sequence[torch.Tensor]:
    found: Sequence[torch.Tensor] = getattr(outputs, f"{half.prefix}hidden_states")
    return found


def _maps(half: Half) -> tuple[str, ...]:
    own = f"{half.prefix}{ATTENTIONS}"
    return (own, CROSS_ATTENTIONS) if half.prefix == DECODER else (own,)


def _counted(batch: Batch, half: Half) -> torch.Tensor | None:
    """Which positions are no padding; None where there is none."""
    return batch.read if half.prefix == ENCODER else batch.attended


def _relative(value: torch.Tensor, target: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """The mean squared error, in units of the target's mean square."""
    target = _at(target.float(), counted)
    error = (_at(value.float(), counted) - target).square().mean()
    return error / target.square().mean().clamp_min(1e-12)


def _at(value: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """The positions of [rows, length, width] that count: [positions, width]."""
    return value.flatten(0, 1) if counted is None else value[counted]
