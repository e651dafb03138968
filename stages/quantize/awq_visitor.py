"""AWQ on the walk: at every stop, channel scales are chosen and the weights that read the input rounded.

What makes the input lies behind, so the walk goes on with Ŵ = Q(W·diag(s))·diag(s)⁻¹, which reads the input
as it is; the scales are kept, and folded into what is written (`folding.py`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..model.calibration.fallbacks import too_little
from ..model.calibration.gram import gram
from ..model.calibration.second_order import relative_error
from ..model.fold import folds, folds_within
from .awq_search import best_scales, restored, weigh
from .calibrated import walked
from .folding import key_of
from .weights import evidence_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from ..model.calibration.walk import Stop
    from ..model.families import Architecture, Linear
    from ..model.quantized import WeightSpec
    from .awq import AwqParams
    from .awq_search import Scaled, Weighed

NOT_FREE = "its input cannot be scaled without another operator"
NOT_ALL = "what shares its input, or makes it, is not quantized and stays as it is"
NOT_BETTER = "no scales that were tried lose less"


class AwqVisitor:
    """Rounds what the walk stops at; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    Beside codes, scales and zeros it makes the channel scales of each fold, float32 [width].
    """

    compares = False

    def __init__(self, model: Architecture, specs: Mapping[str, WeightSpec], params: AwqParams) -> None:
        self.wanted = walked(model, specs)
        self._specs = specs
        self._params = params
        within = folds_within(model, self.wanted)
        self._folds = {fold.readers[0].name: (place, fold) for place, fold in within.items()}
        self._scalable = {linear.name for fold in folds(model) for linear in fold.readers}
        self._tensors: dict[str, npt.NDArray[np.generic]] = {}
        self._evidence: dict[str, dict[str, object]] = {}

    def visit(self, stop: Stop) -> None:
        """Rounds the wanted weights of a stop and lets the walk go on with them."""
        params = self._params
        started = time.process_time()
        linears = [linear for linear in stop.linears if linear.name in self.wanted]
        hessian = gram(stop.inputs, stop.pool) / max(stop.rows, 1)
        reason = too_little(stop)
        search = "mse" if reason and params.scale_search == "hessian" else params.scale_search
        weighed = [
            weigh(
                stop.tensors.original(linear).to(hessian.device),
                self._specs[linear.name].format,
                search,  # type: ignore[arg-type]
                hessian,
            )
            for linear in linears
        ]
        place, fold = self._folds.get(stop.linears[0].name, (0, None))
        scaled, unscaled = None, reason
        if fold is None:
            unscaled = reason or (NOT_ALL if linears[0].name in self._scalable else NOT_FREE)
        elif reason is None:
            duo = params.duo_scaling
            scaled = best_scales(weighed, fold, params.scale_search, hessian, duo_scaling=duo)  # type: ignore[arg-type]
            unscaled = None if scaled else NOT_BETTER
        if scaled is not None:
            self._tensors[key_of(place)] = scaled.width
        common = {"method": "rtn" if reason else "awq", "fallback": reason, "unscaled": unscaled}
        share = (time.process_time() - started) / len(linears)
        for number, (linear, each) in enumerate(zip(linears, weighed, strict=True)):
            self._round(stop, linear, each, scaled, number, hessian)
            self._evidence[linear.name].update(common, rows=stop.rows, cpu_seconds=round(share, 4))

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """What was made since it was last asked, and what was observed of each weight."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found

    def _round(
        self,
        stop: Stop,
        linear: Linear,
        each: Weighed,
        scaled: Scaled | None,
        number: int,
        hessian: torch.Tensor,
    ) -> None:
        levels, scales = (scaled.levels[number], scaled.scales) if scaled else (each.plain, None)
        codes, found = restored(each.weight, levels, scales)
        stop.tensors.replace(linear, found)
        self._tensors.update(parts_of(linear.name, levels, codes))
        plain = restored(each.weight, each.plain, None)[1]
        self._evidence[linear.name] = {
            **evidence_of(each.weight, found, each.form),
            "weighted_error": relative_error(each.weight, found, hessian),
            "rtn_weighted_error": relative_error(each.weight, plain, hessian),
            "alpha": scaled.alpha if scaled else None,
        }
