"""Losses between what layers of a teacher and of a student give: hidden states and attention maps.

As in TinyBERT (arXiv:1909.10351, equations 7 to 9): mean squared errors between the hidden states of paired
layers, through a linear map where widths differ, and between their attention maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...artifacts.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .objective import Batch


def layer_map(given: Sequence[int] | None, student: int, teacher: int) -> tuple[int, ...]:
    """For each of a student's layers the teacher's that it is like; evenly spread by default, last to last.

    Raises RecipeError for a map of another length, or to layers that the teacher does not have.
    """
    if given is None:
        return tuple(max(0, round((place + 1) * teacher / student) - 1) for place in range(student))
    if len(given) != student:
        raise RecipeError(
            f"layer_map names {len(given)} layers, and the student has {student}",
            fix="name for each of its layers the teacher's that it is like",
        )
    for layer in given:
        if not 0 <= layer < teacher:
            raise RecipeError(
                f"layer_map: the teacher has no layer {layer}", fix=f"it has 0 to {teacher - 1}"
            )
    return tuple(given)


class HiddenStates(torch.nn.Module):
    """The error of hidden states, relative to the teacher's mean square; adapters are trained along.

    pairs: student's and teacher's places in their lists of states, where 0 is the embedding.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], student: int, teacher: int) -> None:
        super().__init__()
        self._pairs = tuple(pairs)
        self.adapters = torch.nn.ModuleList()
        if student != teacher:
            for _ in self._pairs:
                adapter = torch.nn.Linear(student, teacher, bias=False)
                torch.nn.init.orthogonal_(adapter.weight)
                self.adapters.append(adapter)

    def forward(
        self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], batch: Batch
    ) -> torch.Tensor:
        """The mean over pairs, positions and features, in units of the teacher's mean square: a scalar."""
        losses = []
        for number, (own, other) in enumerate(self._pairs):
            value = student[own] if not len(self.adapters) else self.adapters[number](student[own])
            target = _attended(teacher[other].float(), batch)
            error = (_attended(value.float(), batch) - target).square().mean()
            losses.append(error / target.square().mean().clamp_min(1e-12))
        return torch.stack(losses).mean()


def attention_error(
    pairs: Sequence[tuple[int, int]],
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    batch: Batch,
) -> torch.Tensor:
    """The squared error of attention maps [rows, heads, length, length], summed over keys, mean elsewhere.

    Where the numbers of heads differ, their means over heads are compared.
    """
    losses = []
    for own, other in pairs:
        mine, theirs = student[own].float(), teacher[other].float()
        if mine.shape[1] != theirs.shape[1]:
            mine, theirs = mine.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        errors = (mine - theirs).square().sum(-1).mean(1)
        losses.append(_attended(errors[..., None], batch).mean())
    return torch.stack(losses).mean()


def _attended(value: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The positions of [rows, length, width] that are no padding: [positions, width]."""
    return value.flatten(0, 1) if batch.attended is None else value[batch.attended]
