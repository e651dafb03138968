"""The weights of a training: as the optimizer moves them, their running mean, and what would be written."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ...artifacts.errors import RecipeError
from ..model.named import matching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .params import TrainParams

    Named = Mapping[str, torch.Tensor]


class Weights:
    """Parameters by name. average: their running mean, where one is taken.

    stored: the dtype that a parameter is written in, so that what is chosen is what is written.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], stored: Mapping[str, torch.dtype], decay: float
    ) -> None:
        self.parameters = parameters
        self._stored = stored
        self._decay = decay
        self.average = {name: value.detach().clone() for name, value in parameters.items()} if decay else None

    def stepped(self, done: int) -> None:
        """Moves the mean; it forgets its start at first, (1 + n) / (10 + n) as its decay at most."""
        if self.average is None:
            return
        decay = min(self._decay, (1 + done) / (10 + done))
        with torch.no_grad():
            for name, value in self.parameters.items():
                self.average[name].lerp_(value, 1 - decay)

    @contextmanager
    def as_written(self) -> Iterator[None]:
        """Has the network compute with what would be written now: the mean, if any, as files have it."""
        held = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.put(self.written())
        try:
            yield
        finally:
            self.put(held)

    def written(self) -> dict[str, torch.Tensor]:
        """What would be written now, float32."""
        found: Named = self.average if self.average is not None else self.parameters
        return {
            name: value.detach().to(self._stored.get(name, value.dtype)).to(value.dtype)
            for name, value in found.items()
        }

    def put(self, values: Named) -> None:
        """Gives the network other weights, without touching the mean."""
        with torch.no_grad():
            for name, value in values.items():
                self.parameters[name].copy_(value)


def freeze(network: torch.nn.Module, patterns: tuple[str, ...]) -> None:
    """Lets the parameters that match stay as they are; raises RecipeError for a pattern that matches none."""
    names = dict(network.named_parameters())
    for pattern in patterns:
        for name in matching(names, pattern, "freeze", "parameter"):
            names[name].requires_grad_(False)
    if not any(each.requires_grad for each in names.values()):
        raise RecipeError("freeze: nothing is left to train", fix="freeze less, or leave the stage out")


def groups(parameters: Mapping[str, torch.nn.Parameter], params: TrainParams) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: equal learning rates and decays together, in the order of names.

    Decay is of matrices alone. Each has its learning rate at the schedule's height as ``height``. Raises
    RecipeError for a pattern that matches none.
    """
    chosen: dict[str, Mapping[str, object]] = {}
    for pattern, changes in (params.groups or {}).items():
        for name in matching(parameters, pattern, "groups", "parameter"):
            chosen[name] = {**chosen.get(name, {}), **changes}
    found: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        own = chosen.get(name, {})
        decay = float(str(own.get("weight_decay", params.weight_decay if parameter.ndim > 1 else 0.0)))
        height = float(str(own.get("learning_rate", params.learning_rate)))
        found.setdefault((height, decay), []).append(parameter)
    return [
        {"params": members, "height": height, "lr": height, "weight_decay": decay}
        for (height, decay), members in found.items()
    ]
