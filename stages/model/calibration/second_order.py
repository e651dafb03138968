"""What second-order methods share: the Hessian's factor, errors as inputs weigh them, and blocks of rows.

The Hessian of ‖(W − Ŵ) X‖² with respect to a row of Ŵ is H = XXᵀ (times two), the same for every row (Frantar
et al. 2022, GPTQ, arXiv:2210.17323, section 3). All matrices are float32 in torch on the processor or a
device; weights are [rows, in], Hessians [in, in].
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ....artifacts.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Rows are worked on in blocks of this many, always: a product over more rows may sum in another order.
ROWS = 512
# How often damping may grow tenfold when a Hessian is singular in spite of it.
TRIES = 4


@dataclass(frozen=True, eq=False)
class Factor:
    """What the walk over columns needs of a Hessian.

    upper: U of the Cholesky factorization H⁻¹ = UᵀU, in the order of ``order``.  damp: the share of the mean
    diagonal that was added to make it definite.  condition: (max / min of the diagonal of the Cholesky factor
    of H)², a lower bound of the condition number.  is_dead: bool [in], in the same order, features that were
    zero for every token.
    """

    upper: torch.Tensor
    order: torch.Tensor
    damp: float
    condition: float
    is_dead: torch.Tensor

    @property
    def dead(self) -> int:
        """How many features were zero for every token."""
        return int(self.is_dead.sum())


def factorize(hessian: torch.Tensor, damp: float, *, desc_act: bool, group: int = 1) -> Factor:
    """Damps and factorizes XXᵀ [in, in].

    damp: share of the mean diagonal that is added; grows tenfold, up to four times, until it suffices.
    desc_act: columns with the largest diagonal first, or with group those ``group`` consecutive ones, which
    stay together. Raises StageError when no damping helps.
    """
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    order = torch.arange(len(hessian), device=hessian.device)
    if desc_act:
        first = torch.argsort(diagonal.reshape(-1, group).sum(1), descending=True, stable=True)
        order = order.reshape(-1, group)[first].flatten()
    ordered = hessian[order][:, order]
    # A feature that never acts leaves its weights free; 1 keeps them out of the others' way.
    ordered.diagonal()[dead[order]] = 1.0
    mean = float(diagonal[~dead].mean()) if not bool(dead.all()) else 1.0
    for _ in range(TRIES + 1):
        damped = ordered.clone()
        damped.diagonal().add_(damp * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and bool(torch.isfinite(upper).all()):
            spread = lower.diagonal()
            condition = float((spread.max() / spread.min()) ** 2)
            return Factor(upper, order, damp, condition, dead[order])
        damp = max(10 * damp, 1e-4)
    raise StageError(
        f"the Hessian of {len(hessian)} features is singular, damped by {damp:.0%} of its mean diagonal too",
        fix="give more or other calibration text",
    )


def blocks_of(rows: int) -> Iterator[slice]:
    """All rows, a block at a time."""
    return (slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS))


def weighted_error(error: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """eᵀHe of every row of ``error``: [rows]."""
    return torch.cat([((error[part] @ hessian) * error[part]).sum(1) for part in blocks_of(len(error))])


def relative_error(weight: torch.Tensor, found: torch.Tensor, hessian: torch.Tensor) -> float:
    """‖(W − Ŵ)X‖ / ‖WX‖, zero where WX is."""
    whole = float(weighted_error(weight, hessian).sum())
    lost = float(weighted_error(weight - found, hessian).sum())
    return (max(lost, 0.0) / whole) ** 0.5 if whole > 0 else 0.0


def corrected(weight: torch.Tensor, hessian: torch.Tensor, cross: torch.Tensor, damp: float) -> torch.Tensor:
    """The weight that gives, of the inputs as they have become, most nearly what W gave of those they were.

    cross: (X̃ − X) Xᵀ [in, in], X̃ the inputs of the original network. Of all W′ the minimum of
    ‖W X̃ − W′X‖² + λ‖W − W′‖² is W′ = W + W (X̃ − X)Xᵀ (XXᵀ + λI)⁻¹, and the error of whatever stands
    for it, Ŵ, adds ‖(W′ − Ŵ)X‖² to that minimum: so it is W′ that is rounded or factored (the objective of Li
    et al. 2025, GPTAQ, arXiv:2504.02692, solved as Zhang et al. 2025, Qronos, arXiv:2505.11695, begin).
    """
    damped = hessian.clone()
    damped.diagonal().add_(damp * float(hessian.diagonal().mean()))
    lower = torch.linalg.cholesky(damped)
    return weight + torch.cholesky_solve((weight @ cross).T, lower).T


def row_parts(weights: Sequence[torch.Tensor]) -> list[slice]:
    """The rows of each weight once they are stacked."""
    ends = list(itertools.accumulate(len(weight) for weight in weights))
    return [slice(end - len(weight), end) for weight, end in zip(weights, ends, strict=True)]


def stack(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weights that read one input, rows below one another, for one walk over their columns."""
    return weights[0] if len(weights) == 1 else torch.cat(list(weights))
