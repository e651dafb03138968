"""Static activations on the walk: at every stop, a grid for the input, and what products with it lose."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..model.calibration.observers import OBSERVERS, ObserverKind, combine, grid, observe
from ..model.quantized import ActivationGrid
from .products import relative, some_rows, squared_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from ..model.calibration.observers import Statistic
    from ..model.calibration.walk import Stop
    from ..model.families import Linear
    from .products import Rounding

Activation = Literal["static", "dynamic", "none"]

# Rows of an input that products are compared on, spread evenly over the text: enough for two figures.
COMPARED_ROWS = 1024
# An expert that fewer tokens came to has no range to speak of.
LEAST_ROWS = 32


@dataclass(frozen=True)
class Rule:
    """What is asked of an input.

    observer: `best` is the one whose grid loses least in the products.  limit: relative error of the products
    above which activations are ``instead``; infinity keeps every grid.
    """

    activation: Activation
    observer: ObserverKind | Literal["best"]
    sym: bool
    percentile: float
    limit: float
    instead: Activation


class StaticVisitor:
    """Looks at the inputs of maps; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    rules: by the name of each weight that is looked at.  Nothing is replaced: later inputs are those of the
    original network.
    """

    compares = False

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.wanted = {name for name, rule in rules.items() if rule.activation == "static"}
        self._rules = rules
        self._evidence: dict[str, object] = {}

    def visit(self, stop: Stop) -> None:
        """Finds the grid of a stop's input, once for all of its maps that are under one rule."""
        alike: dict[Rule, list[Linear]] = {}
        for linear in stop.linears:
            if linear.name in self.wanted:
                alike.setdefault(self._rules[linear.name], []).append(linear)
        for rule, linears in alike.items():
            found = self._decide(stop, rule, linears)
            self._evidence.update({linear.name: found for linear in linears})

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """No tensors, and what was decided for each weight since it was last asked."""
        found, self._evidence = self._evidence, {}
        return {}, found

    def _decide(self, stop: Stop, rule: Rule, linears: list[Linear]) -> dict[str, object]:
        if stop.rows < LEAST_ROWS:
            reason = f"{stop.rows} tokens of the calibration text came to it"
            return {"activation": rule.instead, "tokens": stop.rows, "fallback": reason}
        statistic = _statistic(stop, rule.percentile)
        kinds = OBSERVERS if rule.observer == "best" else (rule.observer,)
        grids = {kind: grid(statistic, kind, sym=rule.sym) for kind in kinds}
        weights = [stop.tensors.original(linear) for linear in linears]
        roundings: dict[str, Rounding | ActivationGrid] = {"none": "none", "dynamic": "dynamic"}
        roundings.update({kind: grids[kind] for kind in kinds})
        squares, whole = squared_errors(some_rows(stop, COMPARED_ROWS), weights, roundings)
        errors = {name: relative(square, whole) for name, square in squares.items()}
        best = min(kinds, key=lambda kind: errors[kind])
        lost = errors[best]
        evidence: dict[str, object] = {
            "activation": "static", "tokens": stop.rows, "observer": best, "grid": asdict(grids[best]),
            "range": [statistic.histogram.low, statistic.histogram.high],
            "output_error": lost, "output_snr_db": -20 * math.log10(lost) if lost else None,
            "output_error_dynamic": errors["dynamic"], "output_error_weights": errors["none"],
            "fallback": None,
        }  # fmt: skip
        if lost > rule.limit:
            reason = f"a grid loses {100 * lost:.1f} % of the products, more than {100 * rule.limit:g} %"
            evidence |= {"activation": rule.instead, "fallback": reason}
        return evidence


def grid_of(evidence: Mapping[str, Any]) -> ActivationGrid:
    """The grid that was decided on for a weight whose activations are static."""
    return ActivationGrid(float(evidence["grid"]["scale"]), int(evidence["grid"]["zero"]))


def _statistic(stop: Stop, percentile: float) -> Statistic:
    def work(batch: torch.Tensor) -> Statistic:
        return observe(batch.float().cpu().numpy(), percentile)

    return functools.reduce(combine, stop.pool.map(work, [each for each in stop.inputs if len(each)]))
