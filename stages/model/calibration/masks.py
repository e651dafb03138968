"""Which entries of a weight go, by a score of each: those of the least, as many as are asked for, exactly.

Of equal scores the one that comes first goes. Scores and masks are [rows, in] in torch; True is what goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..sparsity import Target


def share_of(sparsity: float, entries: int) -> int:
    """How many of so many entries go, to the nearest whole one."""
    return round(sparsity * entries)


def least_of_groups(scores: torch.Tensor, group: int, sparsity: float) -> torch.Tensor:
    """The least of every ``group`` consecutive inputs, which divide a row; with 0 a row is one group."""
    rows, width = scores.shape
    size = group or width
    grouped = scores.reshape(rows, width // size, size)
    least = grouped.argsort(dim=-1, stable=True)[..., : share_of(sparsity, size)]
    gone = torch.zeros_like(grouped, dtype=torch.bool)
    return gone.scatter_(-1, least, True).reshape(rows, width)


def least_of_all(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` least of a whole matrix."""
    flat = scores.flatten()
    gone = torch.zeros_like(flat, dtype=torch.bool)
    if count > 0:
        limit = flat.kthvalue(count).values
        gone = flat < limit
        ties = torch.nonzero(flat == limit)[: count - int(gone.sum()), 0]
        gone[ties] = True
    return gone.reshape(scores.shape)


def by_magnitude(weight: torch.Tensor, target: Target, scope: str = "tensor") -> torch.Tensor:
    """A weight whose least entries are zero (Han et al. 2015, arXiv:1506.02626).

    They are the least of each group, of each `row`, or of the whole `tensor`.
    """
    scores = weight.abs()
    if target.group or scope == "row":
        gone = least_of_groups(scores, target.group, target.sparsity)
    else:
        gone = least_of_all(scores, share_of(target.sparsity, scores.numel()))
    return weight.masked_fill(gone, 0.0)
