"""How much is zero at which step of a gradual pruning, and the masks that hold it so in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..model.calibration.masks import by_magnitude
from ..model.sparsity import Target
from ..train.hooks import Hook
from ..train.parallel import share_of, whole
from ..train.places import places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.families import Linear
    from ..train.hooks import Current
    from ..train.network import Network
    from ..train.places import Place

# Prunings on the way where nobody says how many steps are between two.
PRUNINGS = 10


@dataclass(frozen=True)
class Schedule:
    """The cubic schedule of Zhu and Gupta (arXiv:1710.01878, equation 1).

    s(t) = s_f + (s_i − s_f) · (1 − t / end)³ for the steps t = 0, frequency, 2 · frequency … and ``end``,
    from where on it is s_f. initial: s_i.
    """

    initial: float
    end: int
    frequency: int

    @staticmethod
    def over(steps: int, share: float, initial: float, frequency: int | None) -> Schedule:
        """The schedule whose last pruning is behind a share of the steps, one at least."""
        end = max(1, round(share * steps))
        return Schedule(initial, end, frequency or max(1, round(end / PRUNINGS)))

    def prunes(self, done: int) -> bool:
        """Whether something goes once so many steps are done."""
        return done == self.end or (0 < done < self.end and done % self.frequency == 0)

    def sparsity(self, final: float, done: int) -> float:
        """The share that is zero once ``done`` steps are done, of a weight that ends with ``final``."""
        initial = min(self.initial, final)
        return final + (initial - final) * (1 - min(done, self.end) / self.end) ** 3


class GradualMasks(Hook):
    """Takes the smallest entries of weights away by a schedule, and keeps what went at zero.

    In a pattern the shares of its groups grow with the schedule, by whole entries.
    """

    def __init__(
        self,
        network: Network,
        linears: Mapping[str, Linear],
        targets: Mapping[str, Target],
        schedule: Schedule,
    ) -> None:
        self._schedule = schedule
        self._targets = targets
        placed = places(network, {name: linears[name] for name in targets})
        module = network.module
        self._rows = {name: linears[name].out_features for name in targets}
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._within: dict[str, dict[str, Place]] = {}
        for name, place in placed.items():
            self._parameters[place.parameter] = module.get_parameter(place.parameter)
            self._within.setdefault(place.parameter, {})[name] = place
        # What is zero already goes first, and stays. By parameter, as it is placed: a share of it, maybe.
        self._gone: dict[str, torch.Tensor] = {}
        for parameter, weights in self._within.items():
            zero = self._parameters[parameter].detach() == 0
            gone = torch.zeros_like(zero)
            for name, place in weights.items():
                self._view(name, place, gone).copy_(self._view(name, place, zero))
            self._gone[parameter] = gone
        if schedule.initial:
            self._prune(0)

    def begins(self, current: Current) -> None:  # noqa: D102 - as in Hook
        self._parameters = {name: current(each) for name, each in self._parameters.items()}
        self._gone = {name: share_of(gone, self._parameters[name]) for name, gone in self._gone.items()}

    def gradients(self, step: int) -> None:  # noqa: ARG002, D102 - as in Hook
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(self._gone[name], 0.0)

    def stepped(self, done: int) -> None:  # noqa: D102 - as in Hook
        with torch.no_grad():
            self._apply()
        if self._schedule.prunes(done):
            self._prune(done)

    def state(self) -> Mapping[str, torch.Tensor]:  # noqa: D102 - as in Hook
        return {name: gone.to(torch.uint8) for name, gone in self._gone.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: D102 - as in Hook
        for name, gone in self._gone.items():
            gone.copy_(share_of(state[name].bool(), gone))

    def prune_at_once(self) -> None:
        """Takes all away that the schedule does in the end, by the weights as they are now."""
        self._prune(self._schedule.end)

    def _prune(self, done: int) -> None:
        with torch.no_grad():
            for parameter, weights in self._within.items():
                values = whole(self._parameters[parameter])
                gone = whole(self._gone[parameter]).to(values.device)
                for name, place in weights.items():
                    final = self._targets[name]
                    share = self._schedule.sparsity(final.sparsity, done)
                    if share > 0:
                        weight = self._view(name, place, values).contiguous()
                        pruned = by_magnitude(weight, Target(share, final.group)) == 0
                        self._view(name, place, gone).logical_or_(pruned)
                self._gone[parameter] = share_of(gone, self._parameters[parameter])
            self._apply()

    def _apply(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.masked_fill_(self._gone[name], 0.0)

    def _view(self, name: str, place: Place, values: torch.Tensor) -> torch.Tensor:
        """A weight as [out, in] within what is shaped like its parameter; without a copy."""
        if place.turned:
            return values.T
        return values.view(-1, values.shape[-1])[place.start : place.start + self._rows[name]]
