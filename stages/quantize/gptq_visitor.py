"""GPTQ on the walk: at every stop, the weights that read one input are rounded together."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from ..model.calibration.fallbacks import too_little
from ..model.calibration.gram import cross, gram
from ..model.calibration.second_order import factorize, relative_error, stack, weighted_error
from .calibrated import walked
from .gptq_solve import corrected, refit_scales, round_columns
from .hessian import find_levels
from .weights import evidence_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from ..model.calibration.walk import Stop
    from ..model.families import Architecture, Linear
    from ..model.quantized import WeightFormat, WeightSpec
    from .gptq import GptqParams


class GptqVisitor:
    """Rounds what the walk stops at; see :class:`ingot.stages.model.calibration.walk.Visitor`."""

    def __init__(self, model: Architecture, specs: Mapping[str, WeightSpec], params: GptqParams) -> None:
        self.wanted = walked(model, specs)
        self.compares = params.error_correction
        self._specs = specs
        self._params = params
        self._tensors: dict[str, npt.NDArray[np.generic]] = {}
        self._evidence: dict[str, object] = {}

    def visit(self, stop: Stop) -> None:
        """Rounds the wanted weights of a stop and lets the walk go on with them."""
        alike: dict[WeightFormat, list[Linear]] = defaultdict(list)
        for linear in stop.linears:
            if linear.name in self.wanted:
                alike[self._specs[linear.name].format].append(linear)
        started = time.process_time()
        hessian = gram(stop.inputs, stop.pool) / max(stop.rows, 1)
        moved = None
        if stop.exact is not None and self.compares:
            apart = [exact - given for exact, given in zip(stop.exact, stop.inputs, strict=True)]
            moved = cross(apart, stop.inputs, stop.pool) / max(stop.rows, 1)
        share = (time.process_time() - started) / sum(len(linears) for linears in alike.values())
        for form, linears in alike.items():
            self._round(stop, form, linears, hessian, moved, share)

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """The codes, scales and zeros since it was last asked, and what was observed of each weight."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found

    def _round(
        self,
        stop: Stop,
        form: WeightFormat,
        linears: list[Linear],
        hessian: torch.Tensor,
        moved: torch.Tensor | None,
        seconds: float,
    ) -> None:
        params = self._params
        started = time.process_time()
        original = stack([stop.tensors.original(linear) for linear in linears]).to(hessian.device)
        reason = too_little(stop)
        target, factor = original, None
        nearest = levels = find_levels(original, form, params.scale_search, None if reason else hessian)  # type: ignore[arg-type]
        codes = levels.encode(original)
        if reason is None:
            factor = factorize(hessian, params.damp_percent, desc_act=params.desc_act)
            if moved is not None:
                target = corrected(original, hessian, moved, factor.damp)
                levels = find_levels(target, form, params.scale_search, hessian)  # type: ignore[arg-type]
            codes = round_columns(target, levels, factor)
            if params.refit_scales:
                levels = refit_scales(target, codes, levels, hessian, factor.damp)
        seconds += (time.process_time() - started) / len(linears)
        first = 0
        for linear in linears:
            rows = slice(first, first + linear.out_features)
            first = rows.stop
            own, plain = levels.rows(rows), nearest.rows(rows)
            found, weight, aim = codes[rows], original[rows], target[rows]
            lost = weighted_error(aim - own.decode(found), hessian).sum()
            rounded = plain.encode(weight)
            lost_plain = weighted_error(aim - plain.decode(rounded), hessian).sum()
            why = reason
            if reason is None and lost > lost_plain:
                own, found, why = plain, rounded, "that loses less on the calibration text"
            stop.tensors.replace(linear, own.decode(found))
            self._tensors.update(parts_of(linear.name, own, found))
            self._evidence[linear.name] = {
                **evidence_of(weight, own.decode(found), form),
                "method": "rtn" if why else "gptq",
                "fallback": why,
                "weighted_error": relative_error(weight, own.decode(found), hessian),
                "rtn_weighted_error": relative_error(weight, plain.decode(rounded), hessian),
                "condition": factor.condition if factor else None,
                "damp_percent": factor.damp if factor else None,
                "dead_inputs": factor.dead if factor else None,
                "rows": stop.rows,
                "cpu_seconds": round(seconds, 4),
            }
