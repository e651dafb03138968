"""What takes part in every step of a training, and the hook that keeps pruned weights pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from .parallel import share_of

if TYPE_CHECKING:
    from collections.abc import Mapping


# What trains in the place of a parameter of the network that came in: itself, or this process' share of it.
Current = Callable[[torch.nn.Parameter], torch.nn.Parameter]


class Hook:
    """Takes part in every step; each method does nothing by itself. It runs on every process alike."""

    def begins(self, current: Current) -> None:
        """A training begins, of what ``current`` says."""

    def gradients(self, step: int) -> None:
        """The gradients of step ``step`` (from 0) are there, and not clipped yet."""

    def stepped(self, done: int) -> None:
        """The optimizer has changed the weights; ``done`` steps are over."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """What :meth:`restore` needs to go on exactly from here."""
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what :meth:`state` gave."""


class KeepZeros(Hook):
    """Weights that are zero at the start stay zero, and get no gradient that would count when clipping."""

    def __init__(self, weights: Mapping[str, torch.nn.Parameter]) -> None:
        self._kept = {name: (weight, weight.detach() != 0) for name, weight in weights.items()}

    def begins(self, current: Current) -> None:  # noqa: D102 - as in Hook
        for name, (given, mask) in self._kept.items():
            weight = current(given)
            self._kept[name] = (weight, share_of(mask, weight))

    def gradients(self, step: int) -> None:  # noqa: ARG002, D102 - as in Hook
        for weight, mask in self._kept.values():
            if weight.grad is not None:
                weight.grad.mul_(mask)

    def stepped(self, done: int) -> None:  # noqa: ARG002, D102 - as in Hook
        with torch.no_grad():
            for weight, mask in self._kept.values():
                weight.mul_(mask)
