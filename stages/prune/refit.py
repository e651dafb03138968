"""What takes channels up, fitted anew once some are gone: by least squares, to what the dense network has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ..model.calibration.fallbacks import too_little
from ..model.calibration.gram import cross, gram
from .least_squares import fitted, is_same, relative, squares
from .stored import rounded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.families import Linear
    from .features import FeatureTrainer
    from .least_squares import Choose

# What results call the inputs that stay, behind the name of the weight.
KEPT = ".kept"


class RefitVisitor:
    """Fits maps at their stops; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    What it makes are the weights of kept inputs alone, float32 in the shape that is stored then, and which
    those are; where features were trained, their feed-forward's other weights too. The walk goes on as the
    pruned network, and the network that nothing was taken from beside it: each map is fitted to what it gave
    there, and where its output is added to the state, to what that state was, so that it makes up for what
    was lost before it too.

    choose: by weight, how the inputs that stay are chosen.  whole: weights that lose no input, and are fitted
    too once something before them is gone.  trainer: of features; None leaves them as they are.
    """

    compares = True

    def __init__(
        self,
        source: TensorSource,
        choose: Mapping[str, Choose],
        damp: float,
        whole: Collection[str] = (),
        trainer: FeatureTrainer | None = None,
    ) -> None:
        self.wanted: Collection[str] = {*choose, *whole, *(trainer.entries if trainer else ())}
        self._source = source
        self._trainer = trainer
        self._choose = choose
        self._whole = frozenset(whole)
        self._damp = damp
        self._tensors: dict[str, npt.NDArray[np.generic]] = {}
        self._evidence: dict[str, dict[str, object]] = {}

    def visit(self, stop: Stop) -> Sequence[torch.Tensor] | None:
        """Chooses the inputs of a stop's maps that stay, and fits the maps; the features that were trained,
        for the walk to go on with.
        """
        started, active = time.process_time(), None
        if self._trainer:
            self._trainer.read(stop)
        chosen = [linear for linear in stop.linears if linear.name in self._choose]
        for linear in tuple(chosen):
            trained = self._trainer.train(linear, stop, self._choose[linear.name]) if self._trainer else None
            if trained is not None:
                chosen.remove(linear)
                active = trained.active
                self._take(linear, trained.kept, trained.maps, trained.told)
        whole = [linear for linear in stop.linears if linear.name in self._whole]
        if chosen or (whole and not too_little(stop) and not is_same(stop)):
            hessian = (gram(stop.inputs, stop.pool) / max(stop.rows, 1)).cpu()
            for linear in chosen:
                self._fit(linear, stop, hessian)
            for linear in whole:
                self._make_up(linear, stop, hessian)
        share = round((time.process_time() - started) / len(stop.linears), 4)
        for linear in stop.linears:
            if linear.name in self._evidence:
                self._evidence[linear.name]["cpu_seconds"] = share
        return active

    def _fit(self, linear: Linear, stop: Stop, hessian: torch.Tensor) -> None:
        weight, reason = stop.tensors.original(linear), too_little(stop)
        drift, apart = (None, 0.0) if reason else _drift(stop, weight)
        channels = self._choose[linear.name](stop, weight, hessian, drift)
        kept, dtype = torch.from_numpy(channels), self._source.info(linear.name).dtype
        plain = weight[:, kept]
        found = plain if reason else rounded(fitted(weight, kept, hessian, drift, self._damp), dtype)
        whole, lost, lost_plain = (
            squares(weight - _spread(weight, kept, each), hessian, drift) + apart
            for each in (plain[:, :0], found, plain)
        )
        if reason is None and not lost < lost_plain:
            found, lost, reason = plain, lost_plain, "that loses less on the calibration text"
        stop.tensors.replace(linear, _spread(weight, kept, found))
        told = {
            "fallback": reason,
            "weighted_error": relative(lost, whole),
            "cut_weighted_error": relative(lost_plain, whole),
            "rows": stop.rows,
        }
        self._take(linear, kept, {linear: found}, told)

    def _make_up(self, linear: Linear, stop: Stop, hessian: torch.Tensor) -> None:
        """Fits a map of which all inputs stay, where that brings the state nearer to the dense network's."""
        weight = stop.tensors.original(linear)
        drift, apart = _drift(stop, weight)
        if drift is None:
            return
        every = torch.arange(weight.shape[1])
        found = fitted(weight, every, hessian, drift, self._damp)
        found = rounded(found, self._source.info(linear.name).dtype)
        whole, lost = (squares(weight - each, hessian, drift) + apart for each in (0 * weight, found))
        if lost < apart:
            stop.tensors.replace(linear, found)
            told = {"weighted_error": relative(lost, whole), "cut_weighted_error": relative(apart, whole)}
            self._take(linear, None, {linear: found}, {"fallback": None, **told, "rows": stop.rows})

    def _take(
        self,
        linear: Linear,
        kept: torch.Tensor | None,
        maps: Mapping[Linear, torch.Tensor],
        told: Mapping[str, object],
    ) -> None:
        if kept is not None:
            self._tensors[linear.name + KEPT] = kept.numpy()
        self._evidence[linear.name] = dict(told)
        for each, value in maps.items():
            self._tensors[each.name] = (value.T if each.stored_in_out else value).contiguous().numpy()

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """The fitted weights since it was last asked with their inputs, and what was observed of each."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found


def _drift(stop: Stop, weight: torch.Tensor) -> tuple[torch.Tensor | None, float]:
    """ΔXᵀ [out, in] and ‖Δ‖², both by token; Δ what the dense network's state is ahead by, but for what the
    map itself gives of the inputs here.
    """
    if stop.exact is None:
        return None, 0.0
    ours = stop.onto or (None,) * len(stop.inputs)
    theirs = stop.exact_onto or (None,) * len(stop.inputs)
    there = weight.to(stop.inputs[0].device)

    def apart(batch: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        given, exact, onto, exact_onto = batch
        with torch.inference_mode():
            found = (exact.float() - given.float()) @ there.T  # type: ignore[union-attr]
            return found if onto is None or exact_onto is None else found + (exact_onto - onto)

    ahead = list(stop.pool.map(apart, zip(stop.inputs, stop.exact, ours, theirs, strict=True)))
    total = sum(float(each.square().sum(dtype=torch.float64)) for each in ahead)
    dtype = stop.inputs[0].dtype
    drift = cross([each.to(dtype) for each in ahead], stop.inputs, stop.pool) / stop.rows
    return drift.cpu(), total / stop.rows


def _spread(weight: torch.Tensor, kept: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """[out, kept] → [out, in], zero where an input is gone; of no columns, all of them are."""
    whole = torch.zeros_like(weight)
    whole[:, kept[: found.shape[1]]] = found
    return whole
