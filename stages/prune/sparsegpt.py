"""`prune.sparsegpt`: what stays makes up for what goes, by second-order statistics."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.sparsity import REFIT_STEPS
from .calibrated import CalibratedPruneParams
from .choice import preflight


@dataclass(frozen=True)
class SparseGptParams(CalibratedPruneParams):
    """Parameters of `prune.sparsegpt`."""

    damp_percent: float = param(
        0.01,
        minimum=0.0,
        maximum=1.0,
        doc="share of the mean of the Hessian's diagonal that is added to it: 0.01 is 1 %, as in the paper; "
        "it grows by itself where a Hessian is singular",
    )
    desc_act: bool = param(
        True,
        doc="columns with the strongest inputs first, group by group where there is a pattern; less is lost "
        "so, at no cost",
    )
    refit_steps: int = param(
        REFIT_STEPS,
        minimum=0,
        doc="steps of conjugate gradients that fit all that stays once it is known what goes; a sweep moves "
        "only what is behind a column. 10 take a fifth off what 2:4 loses",
    )


@stage(
    "prune.sparsegpt",
    params=SparseGptParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="SparseGPT: entries go column by column, each paid by those that stay; needs a calibration text",
    takes_compact=True,
    preflight=preflight,
)
def run(context: Context[SparseGptParams]) -> Result:
    """Prunes the checkpoint `model` (arXiv:2301.00774), later layers by what pruned ones before them give."""
    from .calibrated import prune
    from .sparsegpt_method import SparseGpt

    return prune(context, SparseGpt(context.params))
