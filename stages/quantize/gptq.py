"""`quantize.gptq`: what is not yet rounded makes up for what is, by second-order statistics."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts.schema import param
from ..base import Context, Result, stage
from .calibrated import CalibratedWeightParams
from .formats import GROUP_SIZES, formats


@dataclass(frozen=True)
class GptqParams(CalibratedWeightParams):
    """Parameters of `quantize.gptq`."""

    group_size: int = param(
        128,
        choices=GROUP_SIZES,
        doc="input features that share a scale, 0 for a whole row; 128 costs an eighth of a bit a weight, "
        "and calibration makes up for most of what 32 would gain",
    )
    damp_percent: float = param(
        0.01,
        minimum=0.0,
        maximum=1.0,
        doc="share of its mean that is added to the Hessian's diagonal; the paper's hundredth, which grows "
        "by itself where a Hessian is singular",
    )
    desc_act: bool = param(
        True,
        doc="round the columns with the strongest inputs first; groups stay where they are, so it costs "
        "nothing at run time",
    )
    scale_search: str = param(
        "hessian",
        choices=("minmax", "mse", "hessian"),
        doc="span each group's range, or clip it where the squared error is least, as it is or weighted by "
        "the inputs; hessian halves what 3 bits lose",
    )
    refit_scales: bool = param(
        True, doc="fit scales to the codes by least squares once these are found; costs next to nothing"
    )
    error_correction: bool = param(
        False,
        doc="aim at what the original network computes, with the errors of all earlier layers in the inputs; "
        "takes a quarter off the loss at 3 bits for about twice the time",
    )


@stage(
    "quantize.gptq",
    params=GptqParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="GPTQ: columns rounded one by one, each error paid by those behind; needs a calibration text",
    formats=formats,
)
def run(context: Context[GptqParams]) -> Result:
    """Calibrates the checkpoint `model` and writes the quantized form (arXiv:2210.17323).

    Raises DataError for a calibration text that cannot be used, StageError for inputs that are not finite.
    """
    from ..model.calibration.calibrate import calibrate
    from ..model.calibration.fallbacks import count_fallbacks, describe_fallbacks
    from ..model.checkpoint import Checkpoint
    from .gptq_visitor import GptqVisitor
    from .rounding import Made, chosen, write

    source = Checkpoint.open(context.inputs["model"].path)
    specs = chosen(source, context.params.choice())
    visitor = GptqVisitor(source.architecture, specs, context.params)
    journal = calibrate(context, source, visitor)
    evidence = journal.evidence()
    fallbacks = describe_fallbacks(evidence, "rounded to nearest")
    if fallbacks:
        context.note(fallbacks)
    made = Made(journal.results(), evidence, facts={"fallbacks": count_fallbacks(evidence)})
    return write(context, source, specs, "mse", "gptq", made)
