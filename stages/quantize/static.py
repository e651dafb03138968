"""`quantize.static`: int8 weights, and int8 activations on grids that a calibration text sets."""

from __future__ import annotations

from ..base import Context, Result, stage
from .activations import ActivationParams, formats


@stage(
    "quantize.static",
    params=ActivationParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="int8 weights per output channel, int8 activations on fixed grids; needs a calibration text",
    formats=formats,
    takes_compact=True,
)
def run(context: Context[ActivationParams]) -> Result:
    """Calibrates the checkpoint `model` and writes the quantized form (arXiv:1712.05877, section 3).

    Raises DataError for a calibration text that cannot be used, StageError for inputs that are not finite.
    """
    from ..model.checkpoint import Checkpoint
    from .activations import round_static

    return round_static(context, Checkpoint.open(context.inputs["model"].path), "static")
