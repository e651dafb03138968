"""What takes channels up, fitted anew once some are gone: by least squares, to what the dense network has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ..model.calibration.fallbacks import too_little
from ..model.calibration.gram import cross, gram
from ..model.calibration.second_order import weighted_error
from .stored import rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.families import Linear
    from .features import FeatureTrainer

    Indices = npt.NDArray[np.int64]
    # Of a stop, the map's weight, XXᵀ and the drift: the inputs that stay.
    Choose = Callable[[Stop, torch.Tensor, torch.Tensor, torch.Tensor | None], Indices]

# How often damping may grow tenfold where kept channels go together.
TRIES = 4
# What results call the inputs that stay, behind the name of the weight.
KEPT = ".kept"


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


class RefitVisitor:
    """Fits maps at their stops; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    What it makes are the weights of kept inputs alone, float32 in the shape that is stored then, and which
    those are; where features were trained, their feed-forward's other weights too. The walk goes on as the
    pruned network, and the network that nothing was taken from beside it: each map is fitted to what it gave
    there, and where its output is added to the state, to what that state was, so that it makes up for what
    was lost before it too.

    choose: by weight, how the inputs that stay are chosen.  trainer: of features; None leaves them as they
    are.
    """

    compares = True

    def __init__(
        self,
        source: TensorSource,
        choose: Mapping[str, Choose],
        damp: float,
        trainer: FeatureTrainer | None = None,
    ) -> None:
        self.wanted: Collection[str] = {*choose, *(trainer.entries if trainer else ())}
        self._source = source
        self._trainer = trainer
        self._choose = choose
        self._damp = damp
        self._tensors: dict[str, npt.NDArray[np.generic]] = {}
        self._evidence: dict[str, dict[str, object]] = {}

    def visit(self, stop: Stop) -> None:
        """Chooses the inputs of a stop's maps that stay, and fits the maps."""
        started = time.process_time()
        if self._trainer:
            self._trainer.read(stop)
        chosen = [linear for linear in stop.linears if linear.name in self._choose]
        if not chosen:
            return
        hessian = (gram(stop.inputs, stop.pool) / max(stop.rows, 1)).cpu()
        for linear in chosen:
            self._fit(linear, stop, hessian)
        share = round((time.process_time() - started) / len(stop.linears), 4)
        for linear in chosen:
            self._evidence[linear.name]["cpu_seconds"] = share

    def _fit(self, linear: Linear, stop: Stop, hessian: torch.Tensor) -> None:
        weight, reason = stop.tensors.original(linear), too_little(stop)
        ahead = None if reason else _ahead(stop, weight)
        drift, apart = (None, 0.0) if ahead is None else _drift(stop, ahead)
        channels = self._choose[linear.name](stop, weight, hessian, drift)
        kept, dtype = torch.from_numpy(channels), self._source.info(linear.name).dtype
        plain = weight[:, kept]
        found = plain if reason else rounded(fitted(weight, kept, hessian, drift, self._damp), dtype)
        whole, lost, lost_plain = (
            _squares(weight - _spread(weight, kept, each), hessian, drift) + apart
            for each in (plain[:, :0], found, plain)
        )
        if reason is None and not lost < lost_plain:
            found, lost, reason = plain, lost_plain, "that loses less on the calibration text"
        self._tensors[linear.name + KEPT] = channels
        self._evidence[linear.name] = {
            "fallback": reason,
            "weighted_error": _relative(lost, whole),
            "cut_weighted_error": _relative(lost_plain, whole),
            "rows": stop.rows,
        }
        maps = {linear: found}
        if self._trainer and ahead is not None:
            trained = self._trainer.train(linear, stop, ahead, kept, found)
            if trained is not None:
                maps |= trained.maps
                self._evidence[linear.name]["error_of_trained"] = trained.error
        stop.tensors.replace(linear, _spread(weight, kept, maps[linear]))
        for each, value in maps.items():
            self._tensors[each.name] = (value.T if each.stored_in_out else value).contiguous().numpy()

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """The fitted weights since it was last asked with their inputs, and what was observed of each."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found


def _ahead(stop: Stop, weight: torch.Tensor) -> list[torch.Tensor] | None:
    """Δ by batch, float32 [rows, out]: what the dense network's state is ahead by, but for what the map
    itself gives of the inputs here.
    """
    if stop.exact is None:
        return None
    ours = stop.onto or (None,) * len(stop.inputs)
    theirs = stop.exact_onto or (None,) * len(stop.inputs)
    there = weight.to(stop.inputs[0].device)

    def apart(batch: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        given, exact, onto, exact_onto = batch
        with torch.inference_mode():
            found = (exact.float() - given.float()) @ there.T  # type: ignore[union-attr]
            return found if onto is None or exact_onto is None else found + (exact_onto - onto)

    return list(stop.pool.map(apart, zip(stop.inputs, stop.exact, ours, theirs, strict=True)))


def _drift(stop: Stop, ahead: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """ΔXᵀ [out, in] and ‖Δ‖², both by token."""
    squares = sum(float(each.square().sum(dtype=torch.float64)) for each in ahead)
    dtype = stop.inputs[0].dtype
    drift = cross([each.to(dtype) for each in ahead], stop.inputs, stop.pool) / stop.rows
    return drift.cpu(), squares / stop.rows


def _squares(error: torch.Tensor, hessian: torch.Tensor, drift: torch.Tensor | None) -> float:
    """‖EX + Δ‖² − ‖Δ‖² by token, E [out, in] the error of a weight."""
    found = float(weighted_error(error, hessian).sum(dtype=torch.float64))
    return found if drift is None else found + 2 * float((error * drift).sum(dtype=torch.float64))


def _relative(lost: float, whole: float) -> float:
    return (max(lost, 0.0) / whole) ** 0.5 if whole > 0 else 0.0


def _spread(weight: torch.Tensor, kept: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """[out, kept] → [out, in], zero where an input is gone; of no columns, all of them are."""
    whole = torch.zeros_like(weight)
    whole[:, kept[: found.shape[1]]] = found
    return whole
