"""Least squares for what takes channels up: of those that stay, what comes nearest to all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..model.calibration.second_order import weighted_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from ..model.calibration.walk import Stop

    Indices = npt.NDArray[np.int64]
    # Of a stop, the map's weight, XXᵀ and the drift: the inputs that stay.
    Choose = Callable[[Stop, torch.Tensor, torch.Tensor, torch.Tensor | None], Indices]

# How often damping may grow tenfold where kept channels go together.
TRIES = 4


def fitted(
    weight: torch.Tensor,
    kept: torch.Tensor,
    hessian: torch.Tensor,
    drift: torch.Tensor | None,
    damp: float,
) -> torch.Tensor:
    """The weight [out, kept] that, of ``kept`` inputs, comes nearest to what the whole one gives of all.

    weight: [out, in].  kept: int64 [kept].  hessian: XXᵀ [in, in].  drift: ΔXᵀ [out, in], Δ what is to be
    given beside WX.  damp: what is added to the diagonal, as a share of its mean, which holds the weights
    near their own. It minimizes ‖WX + Δ − ŴEX‖² + λ‖Ŵ − W_K‖², E the rows of the kept inputs:
    Ŵ = W_K + (W_R H_RK + ΔX_Kᵀ) (H_KK + λI)⁻¹, R those that go.
    """
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    precise = hessian.double()
    missing = weight[:, gone].double() @ precise[gone][:, kept]
    if drift is not None:
        missing += drift[:, kept].double()
    lower = damped_cholesky(precise[kept][:, kept], damp)
    return weight[:, kept] + torch.cholesky_solve(missing.T, lower).T.float()


def damped_cholesky(hessian: torch.Tensor, damp: float) -> torch.Tensor:
    """The lower factor of H + λI, λ the share ``damp`` of its mean diagonal or as much more as it takes."""
    mean = float(hessian.diagonal().mean()) or 1.0
    for _ in range(TRIES + 1):
        damped = hessian.clone()
        damped.diagonal().add_(damp * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            break
        damp = max(10 * damp, 1e-6)
    found: torch.Tensor = lower
    return found


def squares(error: torch.Tensor, hessian: torch.Tensor, drift: torch.Tensor | None) -> float:
    """‖EX + Δ‖² − ‖Δ‖² by token, E [out, in] the error of a weight. hessian: XXᵀ.  drift: ΔXᵀ."""
    found = float(weighted_error(error, hessian).sum(dtype=torch.float64))
    return found if drift is None else found + 2 * float((error * drift).sum(dtype=torch.float64))


def relative(lost: float, whole: float) -> float:
    """The root of what is lost in units of the whole; 0 of nothing."""
    return (max(lost, 0.0) / whole) ** 0.5 if whole > 0 else 0.0


def is_same(stop: Stop) -> bool:
    """Whether both networks read the same there still, so that there is nothing to make up for."""
    ours, theirs = stop.onto or (), stop.exact_onto or ()
    pairs = [*zip(stop.inputs, stop.exact or (), strict=False), *zip(ours, theirs, strict=False)]
    return all(torch.equal(one, other) for one, other in pairs)
