"""Channels chosen as an optimal brain surgeon does: those go first whose part the others can take over.

Of a map with the weight W and inputs with the products H = XXᵀ, taking the inputs S away and letting the
others make up for it costs tr(W_S [H⁻¹]_SS⁻¹ W_Sᵀ) (Hassibi and Stork 1992; of groups Kurtic et al. 2023,
ZipLM, arXiv:2302.04089, equation 4). What is left is worked out anew behind every few of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

# Of the channels that are there, how many go before costs are worked out anew: one after the other, as in
# the paper, chooses no better and takes twenty times as long.
SHARE = 1 / 16
# Two channels do not go together where one explains so much of the other: either is cheap, not both.
COUPLED = 0.25


def surviving(weight: torch.Tensor, lower: torch.Tensor, count: int, width: int = 1) -> npt.NDArray[np.int64]:
    """The ``count`` channels, of ``width`` inputs each, that are left when the others have gone.

    weight: [out, in], what the inputs are read by where all stay.  lower: the Cholesky factor of the damped
    H [in, in], float64.
    """
    inverse, value = torch.cholesky_inverse(lower), weight.double()
    channels = torch.arange(weight.shape[1] // width)
    while (left := len(channels)) > count:
        blocks = inverse.view(left, width, left, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        parts = value.view(-1, left, width).transpose(0, 1)
        costs = (torch.linalg.solve(blocks, parts.transpose(1, 2)) * parts.transpose(1, 2)).sum((1, 2))
        going = _apart(costs, inverse, width, min(left - count, math.ceil(left * SHARE)))
        is_gone = torch.zeros(left, dtype=torch.bool)
        is_gone[going] = True
        gone, stays = (mask.repeat_interleave(width) for mask in (is_gone, ~is_gone))
        shared = inverse[gone][:, stays]
        solved = torch.linalg.solve(inverse[gone][:, gone], shared)
        value = value[:, stays] - value[:, gone] @ solved
        inverse = inverse[stays][:, stays] - shared.T @ solved
        channels = channels[~is_gone]
    return channels.numpy().astype(np.int64)


def _apart(costs: torch.Tensor, inverse: torch.Tensor, width: int, most: int) -> list[int]:
    """The cheapest channels, the first of those that go together alone; ``most`` of them, or fewer."""
    order = torch.argsort(costs, stable=True)[: 2 * most]
    size = inverse.diagonal().view(-1, width).sum(1)
    places = (order[:, None] * width + torch.arange(width)).flatten()
    shared = inverse[places][:, places].square().view(len(order), width, len(order), width).sum((1, 3))
    coupled = (shared / (size[order][:, None] * size[order]) > COUPLED).numpy()
    found: list[int] = []
    for place in range(len(order)):
        if len(found) < most and not coupled[place, found].any():
            found.append(place)
    return [int(order[place]) for place in found]
