"""Pruning on the walk: at every stop the weights that read one input."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ..model.calibration.fallbacks import too_little
from ..model.calibration.masks import by_magnitude
from ..model.calibration.second_order import relative_error
from .stored import rounded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.sparsity import Target


@dataclass(frozen=True, eq=False)
class Pruned:
    """What a method made of weights that read one input. weights: float32 [out, in], in their order.

    evidence: what was observed of the input, the same for all of them.
    """

    weights: Sequence[torch.Tensor]
    evidence: Mapping[str, object]


class Method(Protocol):
    """A way to prune by inputs. never_worse: magnitude takes its place where that loses less.

    goes_on_pruned: later weights are pruned by what the pruned ones before them give.
    """

    name: str
    never_worse: bool
    goes_on_pruned: bool

    def hessian(self, stop: Stop) -> torch.Tensor:
        """XXᵀ of a stop's inputs divided by their number, float32 [in, in], which errors are measured by."""

    def prune(
        self, stop: Stop, weights: Sequence[torch.Tensor], targets: Sequence[Target], hessian: torch.Tensor
    ) -> Pruned:
        """Prunes weights float32 [out, in]."""


class PruneVisitor:
    """Prunes what the walk stops at; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    What it makes are the pruned weights, float32 in the shape that is stored, each value one that the
    checkpoint's dtype holds.
    """

    compares = False

    def __init__(self, source: TensorSource, targets: Mapping[str, Target], method: Method) -> None:
        self.wanted = set(targets)
        self._source = source
        self._targets = targets
        self._method = method
        self._tensors: dict[str, npt.NDArray[np.generic]] = {}
        self._evidence: dict[str, object] = {}

    def visit(self, stop: Stop) -> None:
        """Prunes the wanted weights of a stop, and lets the walk go on with them if the method wants that."""
        started = time.process_time()
        method = self._method
        linears = [linear for linear in stop.linears if linear.name in self.wanted]
        targets = [self._targets[linear.name] for linear in linears]
        hessian = method.hessian(stop)
        weights = [stop.tensors.original(linear).to(hessian.device) for linear in linears]
        plain = [by_magnitude(weight, target) for weight, target in zip(weights, targets, strict=True)]
        reason = too_little(stop)
        made = Pruned(plain, {}) if reason else method.prune(stop, weights, targets, hessian)
        share = (time.process_time() - started) / len(linears)
        for linear, weight, best, naive in zip(linears, weights, made.weights, plain, strict=True):
            dtype, why = self._source.info(linear.name).dtype, reason
            found, simple = rounded(best, dtype), rounded(naive, dtype)
            lost, lost_plain = (relative_error(weight, each, hessian) for each in (found, simple))
            if reason is None and method.never_worse and lost > lost_plain:
                found, lost, why = simple, lost_plain, "that loses less on the calibration text"
            if method.goes_on_pruned:
                stop.tensors.replace(linear, found)
            stored = found.T.contiguous() if linear.stored_in_out else found
            self._tensors[linear.name] = stored.cpu().numpy()
            self._evidence[linear.name] = {
                "method": "magnitude" if why else method.name,
                "fallback": why,
                "weighted_error": lost,
                "magnitude_weighted_error": lost_plain,
                **made.evidence,
                "rows": stop.rows,
                "cpu_seconds": round(share, 4),
            }

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """The pruned weights since it was last asked, and what was observed of each."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found
