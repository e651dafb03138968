"""Codes of weights whose channels are scaled: nearest ones, or column by column as GPTQ finds them.

Ŵ = Q(W·diag(s))·diag(s)⁻¹, and what it loses, tr((W − Ŵ) H (W − Ŵ)ᵀ), is what Q loses of W·diag(s) with the
Hessian of its inputs, diag(s)⁻¹ H diag(s)⁻¹: so whatever rounds by a Hessian can follow channel scales, as
AWQ's paper has GPTQ do where bits are fewest (Lin et al. 2023, arXiv:2306.00978).
Weights are float32 [rows, in], Hessians [in, in], in torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..model.calibration.second_order import factorize, weighted_error
from .gptq_solve import refit_scales, round_columns
from .hessian import Levels

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Settling:
    """How codes are found once scales are. by_columns: as GPTQ does, else the nearest.

    refit: fit scales to codes by least squares.  damp: share of its mean that the Hessian's diagonal gains.
    """

    by_columns: bool
    refit: bool
    damp: float


@dataclass(frozen=True, eq=False)
class Rounded:
    """codes: float32 [rows, in], of W·diag(s).  levels: what they stand for.  made: Ŵ, float32 [rows, in].

    is_nearest: whether codes are the nearest and levels those given, since nothing that was tried lost less.
    """

    codes: torch.Tensor
    levels: Levels
    made: torch.Tensor
    is_nearest: bool


def settle(
    weights: Sequence[torch.Tensor],
    levels: Sequence[Levels],
    scales: torch.Tensor | None,
    hessian: torch.Tensor,
    settling: Settling,
) -> list[Rounded]:
    """Weights that read one input, rounded to the levels of W·diag(s); none loses more than by nearest codes.

    Raises StageError for a Hessian that stays singular however it is damped.
    """
    own = hessian if scales is None else hessian / (scales[:, None] * scales)
    factor = factorize(own, settling.damp, desc_act=True) if settling.by_columns else None
    found = []
    for weight, near in zip(weights, levels, strict=True):
        scaled = weight if scales is None else weight * scales
        best = _rounded(near.encode(scaled), near, scales, is_nearest=True)
        if factor is not None or settling.refit:
            # What is pruned stays so, though errors of other columns would move it.
            gone = scaled == 0
            codes = (
                best.codes
                if factor is None
                else round_columns(scaled, near, factor, gone if bool(gone.any()) else None)
            )
            fitted = refit_scales(scaled, codes, near, own, settling.damp) if settling.refit else near
            tried = _rounded(codes, fitted, scales, is_nearest=False)
            if _lost(weight, tried, hessian) < _lost(weight, best, hessian):
                best = tried
        found.append(best)
    return found


def _rounded(
    codes: torch.Tensor, levels: Levels, scales: torch.Tensor | None, *, is_nearest: bool
) -> Rounded:
    made = levels.decode(codes)
    return Rounded(codes, levels, made if scales is None else made.div_(scales), is_nearest)


def _lost(weight: torch.Tensor, rounded: Rounded, hessian: torch.Tensor) -> float:
    return float(weighted_error(weight - rounded.made, hessian).sum())
