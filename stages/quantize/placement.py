"""Rounding put before every use of a network's weights, and taken away again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import parametrize

from ..train.hooks import Current, Hook
from ..train.places import places, uses
from .lsq import LearnedGrid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..model.quantized import WeightSpec
    from ..train.network import Network
    from ..train.places import Place
    from .lsq import CodeGrid


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
        self._current: Current = lambda given: given
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
            for module, attribute in uses(self._module, parameter):
                parametrize.register_parametrization(module, attribute, rounded, unsafe=True)
                self._changed.append((module, attribute))

    def begins(self, current: Current) -> None:  # noqa: D102 - as in Hook
        self._current = current

    def stepped(self, done: int) -> None:  # noqa: ARG002 - as in Hook
        """Keeps scales above zero and zero points among the codes."""
        for grid in self.grids.values():
            grid.keep_positive(self._current)

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
