"""GPTQ on the walk: at every stop, the weights that read one input are rounded together."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import torch

from ..model.calibration.fallbacks import too_little
from ..model.calibration.gram import cross, gram
from ..model.calibration.masks import by_magnitude
from ..model.calibration.second_order import (
    corrected,
    factorize,
    relative_error,
    row_parts,
    stack,
    weighted_error,
)
from ..model.calibration.sparsegpt import prune_columns, refit
from ..model.sparsity import REFIT_STEPS
from .calibrated import walked
from .gptq_solve import refit_scales, round_columns
from .hessian import find_levels
from .weights import evidence_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ..model.calibration.walk import Stop
    from ..model.families import Architecture, Linear
    from ..model.quantized import WeightFormat, WeightSpec
    from ..model.sparsity import Target
    from .gptq import GptqParams


class GptqVisitor:
    """Rounds what the walk stops at; see :class:`ingot.stages.model.calibration.walk.Visitor`."""

    def __init__(self, model: Architecture, specs: Mapping[str, WeightSpec], params: GptqParams) -> None:
        self.wanted = walked(model, specs)
        self.compares = params.corrects
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
        weights = [stop.tensors.original(linear).to(hessian.device) for linear in linears]
        original, parts = stack(weights), row_parts(weights)
        reason = too_little(stop)
        sparse = params.target() if linears[0].layer is not None else None
        naive = _pruned_plainly(original, sparse, parts)
        target, factor = original, None
        nearest = levels = find_levels(naive, form, params.scale_search, None if reason else hessian)  # type: ignore[arg-type]
        codes = levels.encode(naive)
        if reason is None:
            factor = factorize(hessian, params.damp_percent, desc_act=params.desc_act)
            if moved is not None:
                target = corrected(original, hessian, moved, factor.damp)
            gone = original == 0 if params.keep_zeros else torch.zeros_like(original, dtype=torch.bool)
            kept = target
            if sparse is not None or (moved is not None and bool(gone.any())):
                kept = self._pruned(target, gone, sparse, parts, hessian)
            levels = find_levels(kept, form, params.scale_search, hessian)  # type: ignore[arg-type]
            codes = round_columns(kept, levels, factor, gone if bool(gone.any()) else None)
            if params.refit_scales:
                levels = refit_scales(target, codes, levels, hessian, factor.damp)
        seconds += (time.process_time() - started) / len(linears)
        for linear, rows in zip(linears, parts, strict=True):
            own, plain = levels.rows(rows), nearest.rows(rows)
            found, weight, aim = codes[rows], original[rows], target[rows]
            lost = weighted_error(aim - own.decode(found), hessian).sum()
            rounded = plain.encode(naive[rows])
            lost_plain = weighted_error(aim - plain.decode(rounded), hessian).sum()
            why = reason
            if reason is None and lost > lost_plain:
                own, found, why = plain, rounded, "that loses less on the calibration text"
            made = own.decode(found)
            stop.tensors.replace(linear, made)
            self._tensors.update(parts_of(linear.name, own, found))
            self._evidence[linear.name] = {
                **evidence_of(weight, made, form),
                **_sparsity_of(made, sparse),
                "method": "rtn" if why else "gptq",
                "fallback": why,
                "weighted_error": relative_error(weight, made, hessian),
                "rtn_weighted_error": relative_error(weight, plain.decode(rounded), hessian),
                "condition": factor.condition if factor else None,
                "damp_percent": factor.damp if factor else None,
                "dead_inputs": factor.dead if factor else None,
                "rows": stop.rows,
                "cpu_seconds": round(seconds, 4),
            }

    def _pruned(
        self,
        target: torch.Tensor,
        gone: torch.Tensor,
        sparse: Target | None,
        parts: Sequence[slice],
        hessian: torch.Tensor,
    ) -> torch.Tensor:
        """What is rounded: ``target`` with what has ``gone``, and goes now, at zero and the rest fitted anew.

        Of all weights with those zeros it is nearest to the target, so the error of any rounding of it adds
        to what its own costs.  gone: takes what goes now.
        """
        params, found = self._params, target.masked_fill(gone, 0.0)
        if sparse is not None:
            group = sparse.group or 1
            factor = factorize(hessian, params.damp_percent, desc_act=params.desc_act, group=group)
            found = prune_columns(target, gone, factor, sparse, parts)
            gone |= found == 0
        return refit(target, found, hessian, params.damp_percent, REFIT_STEPS)


def _pruned_plainly(weight: torch.Tensor, sparse: Target | None, parts: Sequence[slice]) -> torch.Tensor:
    """What is rounded to nearest: the weight, or that pruned by magnitude."""
    if sparse is None:
        return weight
    return stack([by_magnitude(weight[part], sparse) for part in parts])


def _sparsity_of(made: torch.Tensor, sparse: Target | None) -> dict[str, object]:
    """pattern and sparsity, the share of zeros in what was made, where some of it was to become zero."""
    if sparse is None:
        return {}
    return {"pattern": sparse.label, "sparsity": float((made == 0).double().mean())}
