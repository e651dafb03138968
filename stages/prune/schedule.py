"""How much is zero at which step of a gradual pruning, and the masks that hold it so in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..model.calibration.masks import by_magnitude
from ..model.sparsity import Target
from ..train.hooks import Hook
from ..train.places import places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.families import Linear
    from ..train.network import Network

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
        self._weights: dict[str, tuple[torch.nn.Parameter, int, bool]] = {}
        for name, place in placed.items():
            parameter = module.get_parameter(place.parameter)
            self._weights[name] = (parameter, place.start, place.turned)
        self._rows = {name: linears[name].out_features for name in targets}
        # What is zero already goes first, and stays.
        self._gone = {name: self._view(name, self._weights[name][0].detach()) == 0 for name in targets}
        if schedule.initial:
            self._prune(0)

    def gradients(self, step: int) -> None:  # noqa: ARG002, D102 - as in Hook
        for name, (parameter, _, _) in self._weights.items():
            if parameter.grad is not None:
                self._view(name, parameter.grad).masked_fill_(self._mask(name), 0.0)

    def stepped(self, done: int) -> None:  # noqa: D102 - as in Hook
        with torch.no_grad():
            self._apply()
        if self._schedule.prunes(done):
            self._prune(done)

    def state(self) -> Mapping[str, torch.Tensor]:  # noqa: D102 - as in Hook
        return {name: gone.to(torch.uint8) for name, gone in self._gone.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: D102 - as in Hook
        for name, gone in self._gone.items():
            gone.copy_(state[name].to(gone.device, torch.bool))

    def prune_at_once(self) -> None:
        """Takes all away that the schedule does in the end, by the weights as they are now."""
        self._prune(self._schedule.end)

    def _prune(self, done: int) -> None:
        with torch.no_grad():
            for name, final in self._targets.items():
                weight = self._view(name, self._weights[name][0].detach())
                share = self._schedule.sparsity(final.sparsity, done)
                if share > 0:
                    pruned = by_magnitude(weight.contiguous(), Target(share, final.group))
                    self._gone[name] = self._mask(name) | (pruned == 0)
            self._apply()

    def _apply(self) -> None:
        for name, (parameter, _, _) in self._weights.items():
            self._view(name, parameter.detach()).masked_fill_(self._mask(name), 0.0)

    def _mask(self, name: str) -> torch.Tensor:
        """What has gone, bool [out, in], on the device that the weight has moved to since."""
        self._gone[name] = self._gone[name].to(self._weights[name][0].device)
        return self._gone[name]

    def _view(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """A weight as [out, in] within its parameter, or what is shaped like that; without a copy."""
        _, start, turned = self._weights[name]
        if turned:
            return whole.T
        return whole.view(-1, whole.shape[-1])[start : start + self._rows[name]]
