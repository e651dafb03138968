"""What each width would cost each weight, in nats a token: the measure that bits are given out by.

An error E of a weight costs about ½ Σᵣ Fᵣ · (E H Eᵀ)ᵣᵣ, with H the mean square of its inputs and F that of
the gradients of its outputs: half the Fisher information of the whole network in Kronecker's factors, the
second one's diagonal alone (Martens and Grosse 2015, K-FAC, arXiv:1503.05671, section 3). E is what GPTQ
leaves in a network that is not rounded elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..model.calibration.calibrate import calibrate
from ..model.calibration.fallbacks import too_little
from ..model.calibration.gradients import squared_gradients
from ..model.calibration.gram import gram
from ..model.calibration.second_order import factorize, weighted_error
from .gptq_solve import refit_scales, round_columns
from .hessian import find_levels

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ..base import Context
    from ..model.calibration.journal import Results
    from ..model.calibration.walk import Stop
    from ..model.checkpoint import Checkpoint
    from ..model.quantized import WeightSpec
    from .mixed import MixedParams


class SensitivityVisitor:
    """Measures at every stop, and leaves the weights as they are.

    squares: F of each map, float32 [out].  specs: of the weights to measure, at any width.
    """

    compares = False

    def __init__(
        self, squares: Mapping[str, torch.Tensor], specs: Mapping[str, WeightSpec], params: MixedParams
    ) -> None:
        self.wanted = set(specs)
        self._squares = squares
        self._specs = specs
        self._params = params
        self._evidence: dict[str, object] = {}

    def visit(self, stop: Stop) -> None:
        """Rounds each weight of a stop to each width, by itself."""
        params = self._params
        hessian = gram(stop.inputs, stop.pool) / max(stop.rows, 1)
        factor = None
        if not too_little(stop):
            factor = factorize(hessian, params.damp_percent, desc_act=params.desc_act)
        for linear in stop.linears:
            if linear.name not in self.wanted:
                continue
            costs: dict[str, float] = {}
            weight = stop.tensors.original(linear).to(hessian.device)
            squares = self._squares[linear.name].to(hessian.device)
            for bits in params.choices_bits if factor else ():
                form = replace(self._specs[linear.name].format, bits=bits)
                levels = find_levels(weight, form, params.scale_search, hessian)  # type: ignore[arg-type]
                codes = round_columns(weight, levels, factor)  # type: ignore[arg-type]
                if params.refit_scales:
                    levels = refit_scales(weight, codes, levels, hessian, params.damp_percent)
                error = weight - levels.decode(codes)
                costs[str(bits)] = max(float((weighted_error(error, hessian) * squares).sum()) / 2, 0.0)
            self._evidence[linear.name] = costs

    def collect(self) -> tuple[Results, Mapping[str, object]]:
        """No tensors; by weight, the cost of each width, of none where too few tokens came to it."""
        found, self._evidence = self._evidence, {}
        return {}, found


def measure(
    context: Context[MixedParams], source: Checkpoint, specs: Mapping[str, WeightSpec]
) -> dict[str, dict[int, float]]:
    """By weight, the cost of each width in nats a token; see :class:`SensitivityVisitor`."""
    params = replace(context.params, samples=context.params.sensitivity_samples)
    own = replace(context, params=params)
    visitor = SensitivityVisitor(squared_gradients(own, source), specs, params)
    evidence: dict[str, Any] = calibrate(own, source, visitor, "sensitivity").evidence()
    return {name: {int(bits): cost for bits, cost in evidence[name].items()} for name in specs}
