"""Factoring on the walk: at every stop the weights that read one input, which then go on factored.

See :class:`ingot.stages.model.calibration.walk.Visitor`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from ..model.calibration.fallbacks import too_little
from ..model.calibration.gram import cross, gram
from ..model.calibration.second_order import corrected, relative_error
from .decompose import Whitening, decompose
from .factored import Factored, factored, fitted
from .ranks import largest_rank, rank_of_energy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import torch

    from ..model.calibration.walk import Stop
    from ..model.families import Linear
    from .decompose import Doubles
    from .svd_llm import SvdLlmParams

    Results = dict[str, npt.NDArray[np.generic]]

# What the tensors of a walk are called, behind the weight's name.
FIRST, SECOND = ".first", ".second"
# Of the mean squared gradient: what an output's own is raised by, so that none is left out of account.
LEAST_SQUARE = 1e-3


class SpectraVisitor:
    """Keeps of each weight which share of the squared singular values of W·S each rank leaves out.

    most: the largest rank that is asked about.  What it makes is float32 [rank + 1] under the weight's name.
    """

    compares = False

    def __init__(
        self, most: Mapping[str, int], squares: Mapping[str, torch.Tensor], params: SvdLlmParams, seed: int
    ) -> None:
        self.wanted = set(most)
        self._squares = squares
        self._most = most
        self._params = params
        self._seed = seed
        self._tensors: Results = {}

    def visit(self, stop: Stop) -> None:
        """Looks at the wanted weights of a stop, and lets the walk go on with them as they are."""
        whitening = _whitening(stop, self._params.damp_percent)[0]
        for linear in stop.linears:
            if linear.name in self.wanted:
                weight = stop.tensors.original(linear).double().numpy()
                rows = row_weights(self._squares[linear.name])
                found = decompose(weight, whitening, self._most[linear.name], self._seed, rows)
                cost = found.dropped() * found.total / 2
                self._tensors[linear.name] = cost.astype(np.float32)

    def collect(self) -> tuple[Results, Mapping[str, object]]:
        """The shares since it was last asked."""
        found, self._tensors = self._tensors, {}
        return found, {}


class FactorVisitor:
    """Factors what the walk stops at. ranks: of each weight, None for one that stays whole; where they are
    missing, energy decides.  dtypes: what each is stored in.

    What it makes are the two maps, float32 [out, rank] and [rank, in].
    """

    def __init__(
        self,
        linears: Mapping[str, Linear],
        ranks: Mapping[str, int | None] | None,
        dtypes: Mapping[str, str],
        params: SvdLlmParams,
        seed: int,
    ) -> None:
        self.wanted = set(linears)
        self.compares = params.error_correction
        self._ranks = ranks
        self._dtypes = dtypes
        self._params = params
        self._seed = seed
        self._tensors: Results = {}
        self._evidence: dict[str, object] = {}

    def visit(self, stop: Stop) -> None:
        """Factors the wanted weights of a stop and lets the walk go on with their products."""
        started = time.process_time()
        params = self._params
        whitening, hessian, reason = _whitening(stop, params.damp_percent)
        moved = None
        if self.compares and stop.exact is not None and whitening is not None:
            apart = [exact - given for exact, given in zip(stop.exact, stop.inputs, strict=True)]
            moved = cross(apart, stop.inputs, stop.pool) / max(stop.rows, 1)
        wanted = [linear for linear in stop.linears if linear.name in self.wanted]
        shared = (time.process_time() - started) / len(wanted)
        for linear in wanted:
            started = time.process_time()
            original = stop.tensors.original(linear)
            aim = original
            if moved is not None and whitening is not None:
                aim = corrected(original.to(hessian.device), hessian, moved, whitening.damp).cpu()
            made, dropped = self._factor(linear, aim.double().numpy(), whitening, hessian)
            entry: dict[str, object] = {"rank": made.rank if made else None, "fallback": reason}
            if made is not None:
                stop.tensors.replace(linear, made.product)
                self._tensors[f"{linear.name}{FIRST}"] = made.first
                self._tensors[f"{linear.name}{SECOND}"] = made.second
                seen = hessian.cpu()
                entry |= {
                    "missed": dropped**0.5,
                    "weighted_error": relative_error(original, made.product, seen),
                }
            seconds = shared + time.process_time() - started
            self._evidence[linear.name] = {**entry, "rows": stop.rows, "cpu_seconds": round(seconds, 4)}

    def collect(self) -> tuple[Results, Mapping[str, object]]:
        """The maps since it was last asked, and what was observed of each weight."""
        found = self._tensors, self._evidence
        self._tensors, self._evidence = {}, {}
        return found

    def _factor(
        self, linear: Linear, weight: Doubles, whitening: Whitening | None, hessian: torch.Tensor
    ) -> tuple[Factored | None, float]:
        """The two maps, None where the weight stays whole, and the share of squares dropped."""
        params, name = self._params, linear.name
        rank = None if self._ranks is None else self._ranks[name]
        if self._ranks is not None and rank is None:
            return None, 0.0
        count = rank or largest_rank(linear, params.multiple_of)
        found = decompose(weight, whitening, count, self._seed)
        dropped = found.dropped()
        if rank is None and params.energy is not None:
            rank = rank_of_energy(linear, dropped, params.energy, params.multiple_of)
        if rank is None:
            return None, 0.0
        made = factored(found, rank, self._dtypes[name])
        if whitening is not None:
            seen = hessian.double().cpu().numpy()
            made = fitted(made, weight, seen, whitening.damp, self._dtypes[name])
        return made, float(dropped[rank])


def row_weights(squares: torch.Tensor) -> Doubles:
    """What errors of each output weigh: the root of its mean squared gradient, [out], none quite nothing."""
    values = squares.double().cpu().numpy()
    found: Doubles = np.sqrt(values + LEAST_SQUARE * values.mean() + np.finfo(np.float64).tiny)
    return found


def _whitening(stop: Stop, damp: float) -> tuple[Whitening | None, torch.Tensor, str | None]:
    """S of a stop's inputs and XXᵀ divided by their number; no S, and why, where they are too few."""
    hessian = gram(stop.inputs, stop.pool) / max(stop.rows, 1)
    reason = too_little(stop)
    if reason is not None:
        return None, hessian, reason
    return Whitening.of(hessian.double().cpu().numpy(), damp), hessian, None
