"""What int8 products lose: activations and weights rounded as the kernels take them, compared in float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from .grid import round_to_nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..model.calibration.walk import Stop
    from ..model.quantized import ActivationGrid

# How an activation is rounded: not at all, with a scale a row, or on a grid.
Rounding = Literal["none", "dynamic"]


def some_rows(stop: Stop, most: int) -> torch.Tensor:
    """float32 [at most ``most``, in] on the processor, spread evenly over a stop's inputs."""
    step = max(1, stop.rows // most)
    taken, first = [], 0
    for batch in stop.inputs:
        taken.append(batch[first::step].float().cpu())
        first = (first - len(batch)) % step
    return torch.cat(taken)[:most]


def squared_errors(
    inputs: torch.Tensor, weights: Sequence[torch.Tensor], roundings: Mapping[str, Rounding | ActivationGrid]
) -> tuple[dict[str, float], float]:
    """‖Y − Ŷ‖² over all products Y = X Wᵀ of one input, for each way to round it, and ‖Y‖².

    inputs: float32 [rows, in].  weights: float32 [out, in], rounded to 8 bits with a scale a row.
    """
    rounded = {name: _rounded(inputs, kind) for name, kind in roundings.items()}
    lost, whole = dict.fromkeys(roundings, 0.0), 0.0
    for weight in weights:
        exact, stored = inputs @ weight.T, _int8(weight).T
        whole += float(exact.square().sum())
        for name, value in rounded.items():
            lost[name] += float((value @ stored - exact).square().sum())
    return lost, whole


def relative(lost: float, whole: float) -> float:
    """‖Y − Ŷ‖ / ‖Y‖ from the squares; 0 where there is nothing to lose."""
    return math.sqrt(lost / whole) if whole else 0.0


def _rounded(value: torch.Tensor, kind: Rounding | ActivationGrid) -> torch.Tensor:
    if kind == "none":
        return value
    if kind == "dynamic":
        scale = value.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        return (value / scale).round() * scale
    codes = ((value / kind.scale).round() + kind.zero).clamp(0, 255)
    return (codes - kind.zero) * kind.scale


def _int8(weight: torch.Tensor) -> torch.Tensor:
    found = round_to_nearest(weight.numpy(), 8, 0, sym=True, search="minmax")
    centred = torch.from_numpy(found.codes).float() - torch.from_numpy(found.zeros).float()
    return centred * torch.from_numpy(found.scales)
