"""The best factors of a weight, by themselves or as its inputs weigh them.

Of all Ŵ of rank r, the one with the least ‖(W − Ŵ)X‖ is found in a basis in which the inputs are white: with
XXᵀ = S·Sᵀ (Cholesky), ‖(W − Ŵ)X‖ = ‖(W − Ŵ)S‖, so Ŵ = [W·S]ᵣ·S⁻¹, and what it loses is the root of the sum of
the squared singular values of W·S that are dropped (Wang et al. 2024, SVD-LLM, arXiv:2403.07378, section 3).
With S = 1 it is the plain truncated SVD (Eckart and Young 1936). All matrices are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.errors import StageError
from ..model.low_rank import largest, square

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

# How often damping may grow tenfold when inputs have no more directions than it lends them.
TRIES = 4


@dataclass(frozen=True, eq=False)
class Whitening:
    """S, lower triangular [in, in], with S·Sᵀ = XXᵀ + damping; damp: the share of the mean diagonal."""

    lower: Doubles
    damp: float

    @staticmethod
    def of(hessian: Doubles, damp: float) -> Whitening:
        """XXᵀ [in, in], to which that share of its mean diagonal is added; more where that does not suffice.

        Raises StageError for inputs that are not finite or zero throughout.
        """
        mean = float(hessian.diagonal().mean())
        for _ in range(TRIES + 1):
            damped = hessian + damp * mean * np.eye(len(hessian))
            try:
                lower = np.linalg.cholesky(damped)
            except np.linalg.LinAlgError:
                damp = max(10 * damp, 1e-6)
            else:
                return Whitening(lower.astype(np.float64, copy=False), damp)
        raise StageError(
            f"the covariance of {len(hessian)} inputs is singular, damped by {damp:.0%} of its mean too",
            fix="give more or other calibration text",
        )


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The largest singular triplets of D·W·S. left: [out, count].  values: [count].  right: [count, in].

    total: the sum of the squares of all singular values.  rows: the diagonal of D, [out]; None is 1.
    """

    left: Doubles
    values: Doubles
    right: Doubles
    total: float
    whitening: Whitening | None
    rows: Doubles | None = None

    def dropped(self) -> Doubles:
        """The share of the squared singular values that rank 0, 1, 2 ... count leaves out: [count + 1]."""
        kept = np.concatenate([[0.0], np.cumsum(self.values**2)])
        return np.maximum(1 - kept / self.total, 0.0) if self.total else np.zeros(len(kept))

    def factors(self, rank: int) -> tuple[Doubles, Doubles]:
        """B [out, rank] and A [rank, in] of the best Ŵ = B·A of that rank, each with the values' root."""
        root = np.sqrt(self.values[:rank])
        second, first = self.left[:, :rank] * root, root[:, None] * self.right[:rank]
        if self.rows is not None:
            second = second / self.rows[:, None]
        if self.whitening is not None:
            first = np.linalg.solve(self.whitening.lower.T, first.T).T.astype(np.float64, copy=False)
        return second, first


def decompose(
    weight: Doubles, whitening: Whitening | None, count: int, seed: int, rows: Doubles | None = None
) -> Decomposition:
    """The ``count`` largest singular triplets of W [out, in], or of D·W·S.

    seed: of the random vectors by which those of large matrices are found.  rows: what errors of each output
    weigh, the diagonal of D, [out], all above 0.
    """
    seen = weight if whitening is None else weight @ whitening.lower
    seen = seen if rows is None else rows[:, None] * seen
    left, values, right = largest(seen, min(count, *seen.shape), seed)
    return Decomposition(left, values, right, square(seen), whitening, rows)


def refitted(weight: Doubles, first: Doubles, hessian: Doubles, damp: float) -> Doubles:
    """The B [out, rank] with which B·A loses least where A [rank, in] is given: W·XXᵀ·Aᵀ(A·XXᵀ·Aᵀ)⁻¹.

    SVD-LLM's closed-form update (section 3.3), of use where A was rounded after it was found.
    """
    seen = first @ hessian
    inner = seen @ first.T
    inner += damp * float(inner.diagonal().mean()) * np.eye(len(inner))
    found: Doubles = np.linalg.solve(inner, seen @ weight.T).T.astype(np.float64, copy=False)
    return found
