"""What takes channels up, fitted anew once some are gone: by least squares, to what it gave before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ..model.calibration.fallbacks import too_little
from ..model.calibration.gram import gram
from ..model.calibration.second_order import relative_error
from .stored import rounded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.families import Linear

# How often damping may grow tenfold where kept channels go together.
TRIES = 4


def fitted(weight: torch.Tensor, kept: torch.Tensor, hessian: torch.Tensor, damp: float) -> torch.Tensor:
    """The weight [out, kept] that, of ``kept`` inputs, comes nearest to what the whole one gives of all.

    weight: [out, in].  kept: int64 [kept].  hessian: XXᵀ [in, in].  damp: what is added to its diagonal, as a
    share of its mean, which holds the weights near their own. It minimizes ‖(W − ŴE)X‖² + λ‖Ŵ − W_K‖², E the
    rows of the kept inputs: Ŵ = W_K + W_R H_RK (H_KK + λI)⁻¹, R those that go.
    """
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    precise = hessian.double()
    inner, crossed = precise[kept][:, kept], precise[gone][:, kept]
    mean = float(inner.diagonal().mean()) or 1.0
    for _ in range(TRIES + 1):
        damped = inner.clone()
        damped.diagonal().add_(damp * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            break
        damp = max(10 * damp, 1e-6)
    moved = torch.cholesky_solve(crossed.T, lower).T
    return weight[:, kept] + (weight[:, gone].double() @ moved).float()


class RefitVisitor:
    """Fits maps at their stops; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    What it makes are the weights of kept inputs alone, float32 in the shape that is stored then. The walk
    goes on as the pruned network.  kept: by weight, the inputs that stay, int64.
    """

    compares = False

    def __init__(self, source: TensorSource, kept: Mapping[str, npt.NDArray[np.int64]], damp: float) -> None:
        self.wanted: Collection[str] = set(kept)
        self._source = source
        self._kept = kept
        self._damp = damp
        self._tensors: dict[str, npt.NDArray[np.generic]] = {}
        self._evidence: dict[str, dict[str, object]] = {}

    def visit(self, stop: Stop) -> None:
        """Fits the maps of a stop."""
        started = time.process_time()
        hessian = (gram(stop.inputs, stop.pool) / max(stop.rows, 1)).cpu()
        for linear in stop.linears:
            if linear.name in self.wanted:
                self._fit(linear, stop, hessian)
        share = round((time.process_time() - started) / len(stop.linears), 4)
        for linear in stop.linears:
            if linear.name in self.wanted:
                self._evidence[linear.name]["cpu_seconds"] = share

    def _fit(self, linear: Linear, stop: Stop, hessian: torch.Tensor) -> None:
        kept = torch.from_numpy(self._kept[linear.name])
        weight = stop.tensors.original(linear)
        dtype, reason = self._source.info(linear.name).dtype, too_little(stop)
        plain = weight[:, kept]
        found = plain if reason else rounded(fitted(weight, kept, hessian, self._damp), dtype)
        lost, lost_plain = (
            relative_error(weight, _spread(weight, kept, each), hessian) for each in (found, plain)
        )
        if reason is None and not lost < lost_plain:
            found, lost, reason = plain, lost_plain, "that loses less on the calibration text"
        stop.tensors.replace(linear, _spread(weight, kept, found))
        self._tensors[linear.name] = (found.T if linear.stored_in_out else found).contiguous().numpy()
        self._evidence[linear.name] = {
            "fallback": reason,
            "weighted_error": lost,
            "cut_weighted_error": lost_plain,
            "rows": stop.rows,
        }

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """The fitted weights since it was last asked, and what was observed of each."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found


def _spread(weight: torch.Tensor, kept: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """[out, kept] → [out, in], zero where an input is gone."""
    whole = torch.zeros_like(weight)
    whole[:, kept] = found
    return whole
