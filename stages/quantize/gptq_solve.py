"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): rounding column by column, each error paid by those behind.

Everything is float32 in torch on the processor or a device; weights are [rows, in], Hessians [in, in].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..model.calibration.columns import sweep
from ..model.calibration.second_order import Factor, blocks_of
from .hessian import Levels

if TYPE_CHECKING:
    from ..model.calibration.columns import Settle


def round_columns(
    weight: torch.Tensor, levels: Levels, factor: Factor, gone: torch.Tensor | None = None
) -> torch.Tensor:
    """Codes float32 [rows, in]: algorithm 1 of the paper, groups fixed beforehand ("static groups").

    gone: bool [rows, in], what becomes zero wherever earlier columns have moved it; those behind pay for that
    too, which loses less than to move it not at all.
    Works on the transposed matrix, in which a column is contiguous.
    """
    codes = torch.empty_like(weight)
    group = levels.group[factor.order]
    for part in blocks_of(len(weight)):
        left = weight[part][:, factor.order].T.contiguous()
        found = torch.empty_like(left)
        own = None if gone is None else gone[part][:, factor.order].T.contiguous()
        sweep(left, factor.upper, _rounding(levels.rows(part), group, found, own))
        codes[part, factor.order] = found.T
    return codes


def _rounding(levels: Levels, group: torch.Tensor, found: torch.Tensor, gone: torch.Tensor | None) -> Settle:
    """Settles a column at the nearest levels, or at zero. group: of each column; found: takes the codes."""
    scales, zeros = levels.scales.T.contiguous(), levels.zeros.T.contiguous()
    highest = 2**levels.bits - 1

    def settle(place: int, values: torch.Tensor) -> torch.Tensor:
        scale, zero = scales[group[place]], zeros[group[place]]
        code = (values / scale).round_().add_(zero).clamp_(0, highest)
        if gone is not None:
            code = torch.where(gone[place], zero, code)
        found[place] = code
        return code.sub_(zero).mul_(scale)

    return settle


def refit_scales(
    weight: torch.Tensor, codes: torch.Tensor, levels: Levels, hessian: torch.Tensor, damp: float
) -> Levels:
    """The levels with the scales that fit the codes best: for each row a least-squares problem in its scales.

    With c_g the centred codes of group g, zero elsewhere, the error (w − Σ s_g c_g) H (w − Σ s_g c_g)ᵀ is
    least where A s = b, A_gh = c_g H c_hᵀ and b_g = c_g H wᵀ. A row keeps its scales where the solution is
    not positive or, with damping, does not lower the error.
    """
    damped = hessian.clone()
    damped.diagonal().add_(damp * float(hessian.diagonal().mean()))
    count = levels.scales.shape[1]
    scales = levels.scales.clone()
    member = torch.nn.functional.one_hot(levels.group, count).to(torch.float32)
    for part in blocks_of(len(weight)):
        centred = codes[part] - levels.zeros[part][:, levels.group]
        pulled = weight[part] @ damped
        right = (centred * pulled) @ member
        left = weight.new_empty(len(centred), count, count)
        for number in range(count):
            columns = levels.group == number
            left[:, number] = ((centred[:, columns] @ damped[columns]) * centred) @ member
        # A group whose codes are all zero has no say in its scale.
        left.diagonal(dim1=1, dim2=2).add_(1e-6 * left.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-30)
        solved, failed = torch.linalg.solve_ex(left, right)
        old = levels.scales[part]
        usable = (failed == 0) & ((solved > old / 4) & (solved < old * 4)).all(1)
        before = _cost(old, left, right)
        better = usable & (_cost(solved, left, right) < before)
        scales[part] = torch.where(better[:, None], solved, old)
    return Levels(scales, levels.zeros, levels.group, levels.bits)


def _cost(scales: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """sᵀAs − 2bᵀs of every row."""
    return ((left @ scales[:, :, None])[:, :, 0] * scales).sum(1) - 2 * (right * scales).sum(1)
