"""SparseGPT at a stop of the walk: weights that read one input and are pruned alike share one sweep."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ..model.calibration.gram import gram
from ..model.calibration.second_order import factorize, row_parts, stack
from ..model.calibration.sparsegpt import prune_columns, refit
from .visitor import Pruned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..model.calibration.walk import Stop
    from ..model.sparsity import Target
    from .sparsegpt import SparseGptParams


class SparseGpt:
    """See `calibration/sparsegpt.py`."""

    name = "sparsegpt"
    never_worse = True
    goes_on_pruned = True

    def __init__(self, params: SparseGptParams) -> None:
        self._params = params

    def hessian(self, stop: Stop) -> torch.Tensor:
        """XXᵀ of all inputs divided by their tokens, float32 [in, in]."""
        return gram(stop.inputs, stop.pool) / max(stop.rows, 1)

    def prune(
        self, _stop: Stop, weights: Sequence[torch.Tensor], targets: Sequence[Target], hessian: torch.Tensor
    ) -> Pruned:
        """Sweeps the columns of all weights of one target together."""
        params = self._params
        alike: dict[Target, list[int]] = defaultdict(list)
        for place, target in enumerate(targets):
            alike[target].append(place)
        found: dict[int, torch.Tensor] = {}
        evidence: dict[str, object] = {}
        for target, places in alike.items():
            factor = factorize(
                hessian, params.damp_percent, desc_act=params.desc_act, group=target.group or 1
            )
            evidence = {
                "condition": factor.condition, "damp_percent": factor.damp, "dead_inputs": factor.dead,
            }  # fmt: skip
            own = [weights[place] for place in places]
            stacked, parts = stack(own), row_parts(own)
            made = prune_columns(stacked, stacked == 0, factor, target, parts)
            if params.refit_steps:
                made = refit(stacked, made, hessian, factor.damp, params.refit_steps)
            found |= {place: made[part] for place, part in zip(places, parts, strict=True)}
        return Pruned([found[place] for place in range(len(weights))], evidence)
