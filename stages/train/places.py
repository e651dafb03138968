"""Where the weights of a checkpoint are in the network that transformers makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ...artifacts.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .network import Network

# Bits of a row's number in the marks that find it again.
ROW_BITS = 40


@dataclass(frozen=True)
class Place:
    """Where a weight [out, in] is. parameter: its name in the network; all but the last axis are its rows.

    start: the weight's first row there.  turned: the parameter is [in, out].
    """

    parameter: str
    start: int
    turned: bool


class Matrix(Protocol):
    """A weight: its shape [out, in], and whether it is stored as [in, out]."""

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in], however it is stored."""

    @property
    def stored_in_out(self) -> bool:
        """Whether the checkpoint has it as [in, out]."""


def places(network: Network, weights: Mapping[str, Matrix]) -> dict[str, Place]:
    """The places of weights: in parameters of their own, or side by side in one, as experts are.

    Raises InputError for a weight whose rows are not together in one parameter.
    """
    from transformers.core_model_loading import revert_weight_conversion

    marks, names = dict[str, torch.Tensor](), list[str]()
    for name, value in network.module.state_dict().items():
        if value.ndim > 1:
            numbers = torch.arange(value[..., 0].numel()) + (len(names) << ROW_BITS)
            marks[name] = numbers.reshape(*value.shape[:-1], 1).expand(value.shape)
            names.append(name)
    found: dict[str, torch.Tensor] = revert_weight_conversion(network.module, marks)
    placed = {}
    for name, weight in weights.items():
        shape = weight.shape[::-1] if weight.stored_in_out else weight.shape
        mark = found.get(name)
        rows = mark[:, 0] if mark is not None and tuple(mark.shape) == shape else None
        if rows is None or not bool((rows == rows[0] + torch.arange(len(rows))).all()):
            raise InputError(
                f"{name} is not to be found in the network that transformers makes of the checkpoint",
                where=str(network.source.directory),
                fix="name it in ignore",
            )
        first = int(rows[0])
        mask = (1 << ROW_BITS) - 1
        placed[name] = Place(names[first >> ROW_BITS], first & mask, weight.stored_in_out)
    return placed


def uses(module: torch.nn.Module, parameter: str) -> list[tuple[torch.nn.Module, str]]:
    """The modules that have a parameter, and what each calls it."""
    owner, _, attribute = parameter.rpartition(".")
    wanted = module.get_submodule(owner).get_parameter(attribute)
    return [
        (each, name)
        for each in module.modules()
        for name, value in each.named_parameters(recurse=False)
        if value is wanted
    ]
