"""SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774): what stays makes up for what goes.

Everything is float32 in torch on the processor or a device; weights are [rows, in], Hessians [in, in].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .columns import Selection, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..sparsity import Target
    from .second_order import Factor


def prune_columns(
    weight: torch.Tensor, held: torch.Tensor, factor: Factor, target: Target, parts: Sequence[slice]
) -> torch.Tensor:
    """The weight with its zeros and with all else moved: algorithm 1 of the paper.

    held: bool [rows, in], what is zero already and stays so.  parts: the rows of each of the weights below
    one another; each gets its share of zeros.
    """
    left = weight[:, factor.order].T.contiguous()
    selection = Selection(left, held[:, factor.order].T, factor, parts, target)

    def settle(place: int, values: torch.Tensor) -> torch.Tensor:
        return values.masked_fill(selection.gone[place], 0.0)

    sweep(left, factor.upper, settle, selection)
    found = torch.empty_like(weight)
    found[:, factor.order] = left.T
    return found


def refit(
    weight: torch.Tensor, found: torch.Tensor, hessian: torch.Tensor, damp: float, steps: int
) -> torch.Tensor:
    """What stays, fitted anew with the zeros where they are: min ‖(W − Ŵ)X‖² + λ‖W − Ŵ‖² over their places.

    A sweep moves only what is behind a column; this moves all, by conjugate gradients preconditioned with the
    diagonal, every row a problem of its own (as Meng et al. 2024, ALPS, arXiv:2406.07831, section 3.3, end).
    """
    damped = hessian.clone()
    damped.diagonal().add_(damp * float(hessian.diagonal().mean()))
    stays = found != 0
    inverse = 1.0 / damped.diagonal().clamp_min(torch.finfo(torch.float32).tiny)
    made = found.clone()
    residual = ((weight - made) @ damped).mul_(stays)
    leaning = residual * inverse
    direction, size = leaning.clone(), (residual * leaning).sum(1, keepdim=True)
    for _ in range(steps):
        pulled = (direction @ damped).mul_(stays)
        curve = (direction * pulled).sum(1, keepdim=True)
        length = torch.where(curve > 0, size / curve, torch.zeros_like(curve))
        made += length * direction
        residual -= length * pulled
        leaning = residual * inverse
        after = (residual * leaning).sum(1, keepdim=True)
        direction = leaning + torch.where(size > 0, after / size, torch.zeros_like(size)) * direction
        size = after
    return made.mul_(stays)
