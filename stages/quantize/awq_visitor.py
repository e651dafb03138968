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
from .awq_rounding import Settling, settle
from .awq_search import best_scales, weigh
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
    from .awq_rounding import Rounded
    from .awq_search import Scaled, Weighed

NOT_FREE = "its input cannot be scaled without another operator"
NOT_ALL = "what shares its input, or makes it, is not quantized and stays as it is"
NOT_BETTER = "no scales that were tried lose less"
PLAIN = "that loses less on the calibration text"


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
        levels = scaled.levels if scaled else [each.plain for each in weighed]
        scales = scaled.scales if scaled else None
        rounded = settle([each.weight for each in weighed], levels, scales, hessian, self._settling(reason))
        share = (time.process_time() - started) / len(linears)
        for linear, each, found in zip(linears, weighed, rounded, strict=True):
            self._keep(stop, linear, each, found, scaled, hessian)
            is_plain = scaled is None and found.is_nearest and params.rounding == "gptq"
            why = reason or (PLAIN if is_plain else None)
            self._evidence[linear.name].update(
                method="rtn" if why else "awq",
                fallback=why,
                unscaled=unscaled,
                rows=stop.rows,
                cpu_seconds=round(share, 4),
            )

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """What was made since it was last asked, and what was observed of each weight."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found

    def _settling(self, reason: str | None) -> Settling:
        """How codes are found; nearest, where a ``reason`` says that there is nothing to go by."""
        params = self._params
        by_columns = params.rounding == "gptq" and reason is None
        return Settling(by_columns, params.refit_scales and reason is None, params.damp_percent)

    def _keep(
        self,
        stop: Stop,
        linear: Linear,
        each: Weighed,
        rounded: Rounded,
        scaled: Scaled | None,
        hessian: torch.Tensor,
    ) -> None:
        stop.tensors.replace(linear, rounded.made)
        self._tensors.update(parts_of(linear.name, rounded.levels, rounded.codes))
        plain = each.plain.decode(each.plain.encode(each.weight))
        self._evidence[linear.name] = {
            **evidence_of(each.weight, rounded.made, each.form),
            "weighted_error": relative_error(each.weight, rounded.made, hessian),
            "rtn_weighted_error": relative_error(each.weight, plain, hessian),
            "alpha": scaled.alpha if scaled else None,
            "rounding": "nearest" if rounded.is_nearest else self._params.rounding,
        }
