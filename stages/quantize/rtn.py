"""`quantize.rtn`: round to nearest, weight only, needing no data."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts.schema import param
from ..base import Context, Result, stage
from .formats import WeightParams, formats


@dataclass(frozen=True)
class RtnParams(WeightParams):
    """Parameters of `quantize.rtn`."""

    scale_search: str = param(
        "mse",
        choices=("minmax", "mse"),
        doc="span each group's range, or clip it where the squared error is least; mse costs seconds",
    )


@stage(
    "quantize.rtn",
    params=RtnParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="Round every linear weight to the nearest of 2^bits levels; no data needed",
    formats=formats,
    takes_compact=True,
)
def run(context: Context[RtnParams]) -> Result:
    """Rounds the checkpoint `model` and writes the quantized form."""
    from .rounding import quantize

    params = context.params
    return quantize(context, params.choice(), "mse" if params.scale_search == "mse" else "minmax", "rtn")
