"""Weights that are rounded at every step of a training, and what the steps learn by: LSQ, in torch.

A weight w is used as ŵ = (clamp(round(w / s) + z, 0, top) − z) · s; gradients pass the rounding as if it
were not there (Bengio et al. 2013, arXiv:1308.3432), and scales learn by them as in LSQ (arXiv:1902.08153,
section 2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional

from ..train.parallel import share_of

if TYPE_CHECKING:
    from ..model.quantized import WeightSpec
    from ..train.hooks import Current

# A scale never falls below this share of what it was at first: at zero it would stay there for good.
LEAST_RATIO = 1 / 16


@dataclass(frozen=True, eq=False)
class CodeGrid:
    """scales: float32 [rows, groups], above 0.  zeros: float32 [rows, groups], whole numbers."""

    scales: torch.Tensor
    zeros: torch.Tensor


class _FakeQuantize(torch.autograd.Function):
    """weight [rows, groups, size], scales and zeros [rows, groups], top → ŵ."""

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, top: int
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, scales, zeros)
        ctx.top = top
        zero = zeros.round().unsqueeze(-1)
        codes = _codes(weight, scales.unsqueeze(-1), zero, top)
        return codes.sub_(zero).mul_(scales.unsqueeze(-1))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Equations 3 and 5 of LSQ; for zero points LSQ+ (arXiv:2004.09576, section 4.1)."""
        weight, scales, zeros = ctx.saved_tensors
        (given,) = gradients
        zero = zeros.round().unsqueeze(-1)
        values = weight * (1.0 / scales.unsqueeze(-1))
        inside = (values > -zero) & (values < ctx.top - zero)
        codes = _codes(weight, scales.unsqueeze(-1), zero, ctx.top).sub_(zero)
        to_weight = given * inside
        # Inside, round(v) − v; outside, the end of the range that v is clipped to.
        gain = 1 / math.sqrt(weight.shape[-1] * max(1, ctx.top // 2))
        to_scales = (codes.sub_(values.mul_(inside)) * given).sum(-1) * gain
        to_zeros = None
        if ctx.needs_input_grad[2]:
            to_zeros = (to_weight - given).sum(-1) * scales * gain
        return to_weight, to_scales, to_zeros, None


def fake_quantize(
    weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, top: int, size: int
) -> torch.Tensor:
    """ŵ of a weight [rows, in], in groups of ``size`` inputs, of which the last may be short.

    top: the highest code. Gradients of scales and zeros are divided by √(size · ⌊top / 2⌋), as in LSQ,
    section 2.2, so that they are of the size of those of weights.
    """
    rows, width = weight.shape
    short = scales.shape[1] * size - width
    grouped = (functional.pad(weight, (0, short)) if short else weight).view(rows, -1, size)
    found: torch.Tensor = _FakeQuantize.apply(grouped, scales, zeros, top)  # type: ignore[no-untyped-call]
    found = found.view(rows, -1)
    return found[:, :width] if short else found


def encode(weight: torch.Tensor, grid: CodeGrid, spec: WeightSpec) -> torch.Tensor:
    """The codes of a weight [out, in] that :func:`fake_quantize` computes with, float32 [out, in]."""
    size = spec.format.group_size or spec.shape[1]
    group = torch.arange(spec.shape[1]) // size
    return _codes(weight, grid.scales[:, group], grid.zeros[:, group], 2**spec.format.bits - 1)


def _codes(weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, top: int) -> torch.Tensor:
    # A product with the inverse, as the quantizers' own `grid.encode` has it, to the last bit.
    return (weight * (1.0 / scales)).round_().add_(zeros).clamp_(0, top)


class LearnedGrid(torch.nn.Module):
    """The grid of one weight [out, in] while it trains.

    ratio: float32 [out, groups], what each scale is of that at the start, so that its learning rate is a
    share and means the same in any model.  shift: the same of zero points, in units of the range of codes;
    None where these stay.
    """

    scales: torch.Tensor
    zeros: torch.Tensor

    def __init__(self, spec: WeightSpec, start: CodeGrid, *, learn_zeros: bool) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("scales", start.scales.clone(), persistent=False)
        self.register_buffer("zeros", start.zeros.clone(), persistent=False)
        self.ratio = torch.nn.Parameter(torch.ones_like(start.scales))
        shift = torch.nn.Parameter(torch.zeros_like(start.zeros))
        self.shift = shift if learn_zeros and not spec.format.sym else None

    @property
    def top(self) -> int:
        """The highest code."""
        return int(2**self.spec.format.bits - 1)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """ŵ of a weight [out, in]."""
        size = self.spec.format.group_size or self.spec.shape[1]
        return fake_quantize(weight, self.scales * self.ratio, self._moved_zeros(), self.top, size)

    def grid(self) -> CodeGrid:
        """What it is now."""
        with torch.no_grad():
            return CodeGrid(self.scales * self.ratio, self._moved_zeros().round())

    def keep_positive(self, current: Current = lambda given: given) -> None:
        """Brings scales back that a step took below their least, and zero points to where codes are.

        current: what trains in the place of a parameter, which may be a share of it.
        """
        with torch.no_grad():
            current(self.ratio).clamp_(min=LEAST_RATIO)
            if self.shift is not None:
                shift = current(self.shift)
                zeros = share_of(self.zeros, shift)
                shift.copy_(((zeros + shift * self.top).clamp(0, self.top) - zeros) / self.top)

    def _moved_zeros(self) -> torch.Tensor:
        return self.zeros if self.shift is None else self.zeros + self.shift * self.top
