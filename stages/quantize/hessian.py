"""Scales of a weight as its inputs weigh them: pure functions of weights and Hessians, in torch.

All matrices are float32; weights are [rows, in], Hessians [in, in] as in `calibration/second_order.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ..model.calibration.second_order import blocks_of
from .grid import CANDIDATES, LOWEST_CLIP

if TYPE_CHECKING:
    from ..model.quantized import WeightFormat

Search = Literal["minmax", "mse", "hessian"]


@dataclass(frozen=True, eq=False)
class Levels:
    """What a code stands for: scales and zeros, both float32 [rows, groups], zeros whole numbers.

    group: the group of each input feature, int64 [in].
    """

    scales: torch.Tensor
    zeros: torch.Tensor
    group: torch.Tensor
    bits: int

    def rows(self, rows: slice) -> Levels:
        """The levels of some rows."""
        return Levels(self.scales[rows], self.zeros[rows], self.group, self.bits)

    def encode(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest codes of weights [rows, in], float32."""
        scales, zeros = self.scales[:, self.group], self.zeros[:, self.group]
        return (weight / scales).round_().add_(zeros).clamp_(0, 2**self.bits - 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The weights [rows, in] that codes stand for."""
        return (codes - self.zeros[:, self.group]) * self.scales[:, self.group]


def groups_of(width: int, group_size: int) -> list[slice]:
    """The input features of each group; the last may be short, and size 0 is one group."""
    size = group_size or width
    return [slice(start, min(start + size, width)) for start in range(0, width, size)]


def find_levels(
    weight: torch.Tensor, form: WeightFormat, search: Search, hessian: torch.Tensor | None = None
) -> Levels:
    """Scales and zero points of every group of a weight.

    search `minmax` spans each group's range. `mse` and `hessian` try 16 clipping ratios of it and keep that
    with the least error e of the group, eᵀe or eᵀHe with the group's own block of H.
    """
    rows, width = weight.shape
    groups = groups_of(width, form.group_size)
    scales, zeros = weight.new_empty(rows, len(groups)), weight.new_empty(rows, len(groups))
    group = torch.empty(width, dtype=torch.int64, device=weight.device)
    for number, columns in enumerate(groups):
        group[columns] = number
        block = hessian[columns, columns] if search == "hessian" and hessian is not None else None
        for part in blocks_of(rows):
            values = weight[part, columns]
            low, high = _span(values, form.sym)
            if search != "minmax":
                clip = _best_clip(values, low, high, form, block)
                low, high = low * clip, high * clip
            scales[part, number], zeros[part, number] = affine(low, high, form)
    return Levels(scales, zeros, group, form.bits)


def affine(low: torch.Tensor, high: torch.Tensor, form: WeightFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of ranges that hold zero, as :func:`.grid.affine` gives them."""
    tiny = torch.finfo(torch.float32).tiny
    if form.sym:
        scales = high / (2 ** (form.bits - 1) - 1)
        scales = torch.where(scales < tiny, torch.ones_like(scales), scales)
        return scales, torch.full_like(scales, 2 ** (form.bits - 1))
    scales = (high - low) / (2**form.bits - 1)
    scales = torch.where(scales < tiny, torch.ones_like(scales), scales)
    return scales, (-low / scales).round().clamp(0, 2**form.bits - 1)


def _span(values: torch.Tensor, sym: bool) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = values.amin(1).clamp(max=0), values.amax(1).clamp(min=0)
    if sym:
        high = torch.maximum(-low, high)
        low = -high
    return low, high


def _best_clip(
    values: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    form: WeightFormat,
    hessian: torch.Tensor | None,
) -> torch.Tensor:
    best, least = torch.ones_like(low), torch.full_like(low, torch.inf)
    for ratio in torch.linspace(1.0, LOWEST_CLIP[form.bits], CANDIDATES).tolist():
        scales, zeros = affine(low * ratio, high * ratio, form)
        codes = (values / scales[:, None]).round_().add_(zeros[:, None]).clamp_(0, 2**form.bits - 1)
        error = codes.sub_(zeros[:, None]).mul_(scales[:, None]).sub_(values)
        found = (error * error if hessian is None else (error @ hessian) * error).sum(1)
        better = found < least
        least[better] = found[better]
        best[better] = ratio
    return best
