"""AWQ (Lin et al. 2023, arXiv:2306.00978): channel scales under which rounding a weight loses least.

With positive s for the input channels, W·x = (W·diag(s))·(diag(s)⁻¹·x); rounding W·diag(s) lets channels with
strong inputs keep more of their weights (section 3.2). The paper compares outputs; what a weight's rounding
does to them is ‖(W − Ŵ)X‖² = tr((W − Ŵ) XXᵀ (W − Ŵ)ᵀ): XXᵀ decides all, without another forward pass.
Weights are float32 [rows, in], Hessians XXᵀ divided by the number of tokens float32 [in, in], in torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.calibration.second_order import blocks_of, weighted_error
from ..model.quantized import WeightFormat
from .hessian import Levels, find_levels, groups_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from ..model.fold import Fold
    from .hessian import Search

    Floats = npt.NDArray[np.float32]

# Exponents that are tried, 0, 1/20, …, 19/20, as in the paper.
GRID = 20
# The grid looks at no more rows of a weight than these, spread evenly; the finalists are tried on all.
ROWS_TRIED = 512
# How many of the grid's best have their clipping searched.
FINALISTS = 3
# A channel farther than this from the mean one would fill its group's range alone, or vanish in it.
LARGEST = 1e3


@dataclass(frozen=True, eq=False)
class Weighed:
    """A weight that reads the input at hand. plain: its levels without channel scales.

    lost: what rounding it to those costs, tr((W − Ŵ) H (W − Ŵ)ᵀ).
    """

    weight: torch.Tensor
    form: WeightFormat
    plain: Levels
    lost: float


@dataclass(frozen=True, eq=False)
class Scaled:
    """Channel scales float32 [in], and the levels of each weight times them. width: see `Fold.width`."""

    alpha: float
    width: Floats
    scales: torch.Tensor
    levels: tuple[Levels, ...]


def weigh(weight: torch.Tensor, form: WeightFormat, search: Search, hessian: torch.Tensor) -> Weighed:
    """A weight rounded without channel scales."""
    plain = find_levels(weight, form, search, hessian)
    return Weighed(weight, form, plain, lost(weight, plain, None, hessian))


def best_scales(
    weighed: Sequence[Weighed], fold: Fold, search: Search, hessian: torch.Tensor, *, duo_scaling: bool
) -> Scaled | None:
    """The scales under which the weights together lose least, and none of them more than without; else None.

    The grid keeps the share of its range that each group was clipped to without scales; for the best of it
    clipping is searched again.
    """
    weights = [each.weight for each in weighed] if duo_scaling else []
    tried = list(candidates(fold, hessian, weights, [each.form.group_size for each in weighed]))
    parts = [_clipped_part(each) for each in weighed]
    losses = []
    for _, width in tried:
        scales = _expanded(fold, width, hessian)
        losses.append(sum(_clipped_loss(part, scales, hessian) for part in parts))
    order = sorted(range(len(tried)), key=losses.__getitem__)
    best, least = None, sum(each.lost for each in weighed)
    for number in order[:FINALISTS]:
        alpha, width = tried[number]
        scales = _expanded(fold, width, hessian)
        levels = tuple(find_scaled(each.weight, each.form, search, hessian, scales) for each in weighed)
        found = [lost(each.weight, own, scales, hessian) for each, own in zip(weighed, levels, strict=True)]
        is_harmless = all(new <= each.lost for new, each in zip(found, weighed, strict=True))
        if is_harmless and sum(found) < least:
            best, least = Scaled(alpha, width, scales, levels), sum(found)
    return best


def candidates(
    fold: Fold, hessian: torch.Tensor, weights: Sequence[torch.Tensor], group_sizes: Sequence[int]
) -> list[tuple[float, Floats]]:
    """Exponents α with scales float32 [width]: s = x^α, or x^α / w^(1−α) where there are ``weights``.

    x: each channel's root mean square, which `hessian` holds.  w: the mean of its weights' magnitudes, each
    divided by the largest of its group.  All have a geometric mean of 1; a channel that never acts gets 1.
    """
    inputs = fold.gather(hessian.diagonal().sqrt().cpu().numpy())
    spreads = np.ones(len(inputs), np.float32)
    if weights:
        shares = [_spread(*each) for each in zip(weights, group_sizes, strict=True)]
        rows = [len(each) for each in weights]
        spreads = fold.gather(np.average(shares, axis=0, weights=rows).astype(np.float32))
    alive = (inputs > 0) & (spreads > 0)
    x, w = (np.log(each[alive], dtype=np.float64) for each in (inputs, spreads))
    found = []
    for step in range(GRID):
        alpha = step / GRID
        logs = alpha * x - (1 - alpha) * w
        scales = np.ones(len(inputs), np.float64)
        if len(logs):
            scales[alive] = np.exp((logs - logs.mean()).clip(-np.log(LARGEST), np.log(LARGEST)))
        found.append((alpha, scales.astype(np.float32)))
    return found


def find_scaled(
    weight: torch.Tensor, form: WeightFormat, search: Search, hessian: torch.Tensor, scales: torch.Tensor
) -> Levels:
    """The levels of W·diag(s), whose inputs diag(s)⁻¹x have the Hessian diag(s)⁻¹ H diag(s)⁻¹."""
    return find_levels(weight * scales, form, search, hessian / (scales[:, None] * scales))


def restored(
    weight: torch.Tensor, levels: Levels, scales: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes of W·diag(s), and Ŵ, what they stand for times diag(s)⁻¹; both float32 [rows, in]."""
    if scales is None:
        codes = levels.encode(weight)
        return codes, levels.decode(codes)
    codes = levels.encode(weight * scales)
    return codes, levels.decode(codes).div_(scales)


def lost(weight: torch.Tensor, levels: Levels, scales: torch.Tensor | None, hessian: torch.Tensor) -> float:
    """tr((W − Ŵ) H (W − Ŵ)ᵀ) of a weight that is rounded to the levels of W·diag(s)."""
    total = 0.0
    for part in blocks_of(len(weight)):
        own = weight[part]
        error = own - restored(own, levels.rows(part), scales)[1]
        total += float(weighted_error(error, hessian).sum())
    return total


def _clipped_part(each: Weighed) -> tuple[torch.Tensor, WeightFormat, torch.Tensor]:
    """Some rows of a weight, its format, and the share of its range that each group keeps [rows, groups]."""
    rows = slice(None, None, -(-len(each.weight) // ROWS_TRIED))
    weight = each.weight[rows]
    whole = find_levels(weight, each.form, "minmax")
    return weight, each.form, each.plain.rows(rows).scales / whole.scales


def _clipped_loss(
    part: tuple[torch.Tensor, WeightFormat, torch.Tensor], scales: torch.Tensor, hessian: torch.Tensor
) -> float:
    weight, form, shares = part
    whole = find_levels(weight * scales, form, "minmax")
    clipped = Levels(whole.scales * shares, whole.zeros, whole.group, whole.bits)
    return lost(weight, clipped, scales, hessian)


def _expanded(fold: Fold, width: Floats, hessian: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(fold.expand(width)).to(hessian.device)


def _spread(weight: torch.Tensor, group_size: int) -> Floats:
    """[in]: the mean over rows of |w| divided by the largest of its group."""
    found = torch.zeros(weight.shape[1], device=weight.device)
    for part in blocks_of(len(weight)):
        sizes = weight[part].abs()
        for columns in groups_of(weight.shape[1], group_size):
            sizes[:, columns] /= sizes[:, columns].amax(1, keepdim=True).clamp(min=1e-30)
        found += sizes.sum(0)
    result: Floats = (found / len(weight)).cpu().numpy()
    return result
