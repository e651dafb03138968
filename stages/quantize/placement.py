"""Where the weights of a checkpoint are in a network of transformers, and rounding put before their use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import parametrize

from ...artifacts.errors import InputError
from ..train.hooks import Hook
from .lsq import LearnedGrid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..model.quantized import WeightSpec
    from ..train.network import Network
    from .lsq import CodeGrid

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


def places(network: Network, specs: Mapping[str, WeightSpec]) -> dict[str, Place]:
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
    for name, spec in specs.items():
        shape = spec.shape[::-1] if spec.stored_in_out else spec.shape
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
        placed[name] = Place(names[first >> ROW_BITS], first & mask, spec.stored_in_out)
    return placed


class RoundedParameter(torch.nn.Module):
    """What a parameter is while it trains: rows that are rounded, and others between them as they are."""

    def __init__(self, grids: Sequence[tuple[Place, LearnedGrid]]) -> None:
        super().__init__()
        ordered = sorted(grids, key=lambda each: each[0].start)
        self._starts = [place.start for place, _ in ordered]
        self._turned = ordered[0][0].turned
        self._rows = [grid.spec.shape[0] for _, grid in ordered]
        self.grids = torch.nn.ModuleList(grid for _, grid in ordered)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The parameter with its rows rounded, in its own shape."""
        if self._turned:
            turned: torch.Tensor = self.grids[0](weight.T.contiguous())
            return turned.T
        flat, done, parts = weight.reshape(-1, weight.shape[-1]), 0, []
        for start, rows, grid in zip(self._starts, self._rows, self.grids, strict=True):
            stop = start + rows
            parts += [flat[done:start]] if start > done else []
            parts.append(grid(flat[start:stop]))
            done = stop
        parts += [flat[done:]] if done < len(flat) else []
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(weight.shape)


class Rounding(Hook):
    """Rounds the weights of a network before every use; a hook that keeps what they learn in bounds.

    grids: of each weight, by name.
    """

    def __init__(
        self,
        network: Network,
        specs: Mapping[str, WeightSpec],
        starts: Mapping[str, CodeGrid],
        *,
        learn_zeros: bool,
    ) -> None:
        self._module = network.module
        self.places = places(network, specs)
        self.grids = {
            name: LearnedGrid(spec, starts[name], learn_zeros=learn_zeros) for name, spec in specs.items()
        }
        self._changed: list[tuple[torch.nn.Module, str]] = []
        together: dict[str, list[tuple[Place, LearnedGrid]]] = {}
        for name, place in self.places.items():
            together.setdefault(place.parameter, []).append((place, self.grids[name]))
        for parameter, grids in together.items():
            rounded = RoundedParameter(grids)
            # One that is tied is rounded wherever it is used.
            for module, attribute in _uses(self._module, parameter):
                parametrize.register_parametrization(module, attribute, rounded, unsafe=True)
                self._changed.append((module, attribute))

    def stepped(self, done: int) -> None:  # noqa: ARG002 - as in Hook
        """Keeps scales above zero and zero points among the codes."""
        for grid in self.grids.values():
            grid.keep_positive()

    def latent(self, parameter: str) -> torch.nn.Parameter:
        """What is rounded where the network had a parameter of that name."""
        owner, _, attribute = parameter.rpartition(".")
        held: Any = self._module.get_submodule(owner)
        found: torch.nn.Parameter = held.parametrizations[attribute].original
        return found

    def settle(self) -> None:
        """Leaves the network with the rounded weights."""
        with torch.no_grad():
            rounded = [getattr(module, attribute).clone() for module, attribute in self._changed]
            changed = tuple(self._changed)
            self.undo()
            for (module, attribute), value in zip(changed, rounded, strict=True):
                module.get_parameter(attribute).copy_(value)

    def undo(self) -> None:
        """Leaves the network with the weights that were rounded, as they are now."""
        for module, attribute in self._changed:
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        self._changed.clear()


def _uses(module: torch.nn.Module, parameter: str) -> list[tuple[torch.nn.Module, str]]:
    """The modules that have a parameter, and what each calls it."""
    owner, _, attribute = parameter.rpartition(".")
    wanted = module.get_submodule(owner).get_parameter(attribute)
    return [
        (each, name)
        for each in module.modules()
        for name, value in each.named_parameters(recurse=False)
        if value is wanted
    ]
