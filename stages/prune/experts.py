"""What each expert of a mixture adds on the calibration text, by the weight that the router gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ..model.families import Mixture

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    import numpy.typing as npt

    from ..model.calibration.walk import Stop
    from ..model.families import Architecture


class ExpertVisitor:
    """Takes what experts add; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    What it makes, by the exit of an expert, is the root of the sum over its tokens of ‖g·E(x)‖², g its
    weight: float32 [1].
    """

    compares = False

    def __init__(self, model: Architecture) -> None:
        self._opened: dict[str, tuple[Mixture, int]] = {}
        self._closed: dict[str, tuple[Mixture, int]] = {}
        for layer in model.layers:
            form = layer.feed_forward
            for number, expert in enumerate(form.experts if isinstance(form, Mixture) else ()):
                self._opened[expert.linears[0].name] = form, number  # type: ignore[assignment] # it is one
                self._closed[expert.down.name] = form, number  # type: ignore[assignment]
        self.wanted: Collection[str] = {*self._opened, *self._closed}
        self._weights: list[torch.Tensor] = []
        self._found: dict[str, npt.NDArray[np.generic]] = {}

    def visit(self, stop: Stop) -> None:
        """Takes the weights where an expert begins, and what it adds where it ends."""
        name = stop.linears[0].name
        if name in self._opened:
            form, number = self._opened[name]
            router = stop.tensors.original(form.router).to(stop.inputs[0].device)
            self._weights = [_weights(form, number, router, rows) for rows in stop.inputs]
            return
        exit_map = stop.tensors.original(stop.linears[0]).to(stop.inputs[0].device)
        total = sum(
            float((functional.linear(rows.float(), exit_map).square().sum(1) * weight.square()).sum())
            for rows, weight in zip(stop.inputs, self._weights, strict=True)
        )
        if stop.rows:
            self._found[name] = torch.tensor([total]).sqrt().numpy()

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """What was seen since it was last asked."""
        found, self._found = self._found, {}
        return found, {}


def _weights(form: Mixture, number: int, router: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The weight that the router gives an expert for each of its rows, [rows]."""
    shares = functional.linear(rows.float(), router).softmax(-1)
    own = shares[:, number]
    return own / shares.topk(form.chosen, dim=-1).values.sum(-1) if form.normalized else own
