"""`prune.wanda`: entries that are small beside the inputs they meet become zero."""

from __future__ import annotations

from dataclasses import dataclass

from ..base import Context, Result, stage
from .calibrated import CalibratedPruneParams
from .choice import preflight


@dataclass(frozen=True)
class WandaParams(CalibratedPruneParams):
    """Parameters of `prune.wanda`."""


@stage(
    "prune.wanda",
    params=WandaParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="Wanda: the least of |weight| · norm of its input go, row by row; needs a calibration text",
    takes_compact=True,
    preflight=preflight,
)
def run(context: Context[WandaParams]) -> Result:
    """Prunes the checkpoint `model` (arXiv:2306.11695), every weight by the inputs it had in it."""
    from .calibrated import prune
    from .wanda_method import Wanda

    return prune(context, Wanda())
