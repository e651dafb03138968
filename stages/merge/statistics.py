"""What some methods know of each model beside its weights, taken over a calibration text before the merge.

A method that declares ``statistics`` has its stage take the text's parameters. They are found once for each
model, kept in files of the job's directory, and read through a memory map, block by block, as weights are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError
from .operands import StoredOperand
from .task import Operand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...artifacts.tensors import TensorSource
    from ..base import Context
    from .method import Measure
    from .models import Model
    from .task import Input, TensorTask


@dataclass(frozen=True, eq=False)
class Statistic:
    """What was found of one tensor. operand: its numbers.

    axis: the dimension of the tensor that its rows and columns stand for; None where it has one number for
    each element.
    """

    operand: Operand
    axis: int | None = None


class MeasuredOperand(StoredOperand):
    """A stored tensor of which something was found."""

    def __init__(self, source: TensorSource, model: str, tensor: str, statistic: Statistic) -> None:
        super().__init__(source, model, tensor)
        self.statistic = statistic

    def release(self) -> None:
        """Lets the system take back the pages of both."""
        super().release()
        self.statistic.operand.release()


def with_statistics(
    context: Context[Any], models: Mapping[str, Model], measure: Measure, tasks: Sequence[TensorTask]
) -> tuple[TensorTask, ...]:
    """The tasks, each operand that is a stored tensor with what was found of it.

    Raises InputError for a network that no text can be taken through, and as the calibration does.
    """
    found: dict[str, Mapping[str, Statistic]] = {}
    for name, model in models.items():
        job = context.job / name
        job.mkdir(exist_ok=True)
        own = replace(context, inputs={"model": context.inputs[name]}, job=job)
        found[name] = measure(own, model.checkpoint)

    def measured(each: Input) -> Input:
        stored = each.operand.stored
        statistic = found[stored.model].get(stored.tensor) if stored else None
        if stored is None or statistic is None:
            return each
        source = models[stored.model].checkpoint.tensors
        return replace(each, operand=MeasuredOperand(source, stored.model, stored.tensor, statistic))

    return tuple(replace(task, inputs=tuple(measured(each) for each in task.inputs)) for task in tasks)


def statistics(task: TensorTask) -> list[Statistic] | None:
    """Those of the inputs; None where nothing was found of any.

    Raises InputError where something was found of some: of a tensor whose rows are moved, as those of an
    embedding for another vocabulary, nothing is known.
    """
    found = [getattr(each.operand, "statistic", None) for each in task.inputs]
    if all(each is None for each in found):
        return None
    if any(each is None for each in found):
        what = f"{task.method} knows nothing of rows that are moved between vocabularies"
        raise InputError(what, where=task.output.name, fix="merge models that have the same tokenizer")
    return [each for each in found if each is not None]


def check(task: TensorTask) -> None:
    """Raises InputError as :func:`statistics`, and for weights that add up to 0, which have no average."""
    statistics(task)
    if sum(task.numbers("weight")) == 0:
        what = f"the weights of {task.method} add up to 0, so there is no average"
        raise InputError(what, where=task.output.name, fix="change a weight")
