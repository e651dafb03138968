"""What a merge does to one output tensor, once models, layers, vocabularies and parameters are resolved.

`resolve.py` makes these from a recipe and from headers alone; `execute.py` carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ...artifacts.tensor_header import TensorShape

if TYPE_CHECKING:
    import torch


class Operand(Protocol):
    """The elements of one source of a merge, read in blocks; reading from several threads at once is safe.

    label: input and tensor, for messages and for the report, such as ``model2:lm_head.weight``.
    shape: of the whole, that of the output.  stored: the tensor that is read as it is, or None where rows are
    moved or made (see `embeddings.py`).
    """

    label: str
    shape: tuple[int, ...]
    stored: Stored | None

    def read(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Writes the elements [start, stop) in C order into ``out``, float32 [stop - start]."""

    def release(self) -> None:
        """Lets the system take back the pages that reading brought in."""


@dataclass(frozen=True)
class Stored:
    """One tensor as a checkpoint holds it. model: the input's name, such as ``model1``; dtype: BF16 ..."""

    model: str
    tensor: str
    dtype: str


@dataclass(frozen=True, eq=False)
class Input:
    """One source of an output tensor with the parameters that hold for it: ``weight``, ``density`` ..."""

    operand: Operand
    parameters: Mapping[str, object] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """A parameter that is a number; raises TypeError for one that is none."""
        return _number(self.parameters[name], name)


@dataclass(frozen=True, eq=False)
class TensorTask:
    """How one output tensor is made.

    output: name, dtype and shape.  method: such as ``ties``.  base: the operand that differences are taken
    from, for methods that have one.  inputs: the others, in the order of the recipe.  parameters: those that
    all inputs share.
    """

    output: TensorShape
    method: str
    base: Operand | None
    inputs: tuple[Input, ...]
    parameters: Mapping[str, object] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """A shared parameter that is a number; raises TypeError for one that is none."""
        return _number(self.parameters[name], name)

    def numbers(self, name: str) -> list[float]:
        """A parameter of each input."""
        return [each.number(name) for each in self.inputs]

    def operands(self) -> list[Operand]:
        """All that is read, the base first."""
        return [*([self.base] if self.base else []), *(each.operand for each in self.inputs)]


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, not a number")
    return float(value)
