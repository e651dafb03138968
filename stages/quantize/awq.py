"""`quantize.awq`: channels with strong inputs keep more of their weights, by scales that are folded in."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts.schema import param
from ..base import Context, Result, stage
from .calibrated import CalibratedWeightParams
from .formats import GROUP_SIZES, formats


@dataclass(frozen=True)
class AwqParams(CalibratedWeightParams):
    """Parameters of `quantize.awq`."""

    group_size: int = param(
        128,
        choices=GROUP_SIZES,
        doc="input features that share a scale, 0 for a whole row; 128 costs an eighth of a bit a weight, "
        "and is what the paper takes",
    )
    duo_scaling: bool = param(
        True,
        doc="choose channel scales from the spread of weights too, not of inputs alone; takes more off the "
        "error at no cost",
    )
    scale_search: str = param(
        "hessian",
        choices=("minmax", "mse", "hessian"),
        doc="span each group's range, or clip it where the squared error is least, as it is or weighted by "
        "the inputs; hessian halves what 3 bits lose, of which channel scales take little more",
    )
    rounding: str = param(
        "gptq",
        choices=("gptq", "nearest"),
        doc="of scaled weights: column by column, each error paid by those behind, or each weight by itself, "
        "as in the paper; gptq takes two thirds off what 3 and 4 bits lose, for no more time",
    )
    refit_scales: bool = param(
        True, doc="fit scales to the codes by least squares once these are found; costs next to nothing"
    )
    damp_percent: float = param(
        0.01,
        minimum=0.0,
        maximum=1.0,
        doc="share of its mean that is added to the Hessian's diagonal where columns are rounded one by one, "
        "and scales fitted",
    )


@stage(
    "quantize.awq",
    params=AwqParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=2,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="AWQ: channels scaled by the strength of their inputs, clipped and rounded; needs a text",
    formats=formats,
    takes_compact=True,
)
def run(context: Context[AwqParams]) -> Result:
    """Calibrates the checkpoint `model`, folds and writes the quantized form (arXiv:2306.00978).

    Scales are chosen by nearest codes, as in the paper; what they are folded for is then rounded as
    `rounding` says. A weight that is not scaled, and loses less by nearest codes than by columns, counts as a
    fallback.

    Inputs that cannot be scaled for free (`model/fold.py`) are clipped alone, and so are those whose scales
    would change a weight that is not quantized: what is ignored stays bit-equal. The router of a mixture is
    such a weight, so entries of experts are not scaled, their exits are.
    Raises DataError for a calibration text that cannot be used, StageError for inputs that are not finite.
    """
    from ..model.calibration.calibrate import calibrate
    from ..model.calibration.fallbacks import count_fallbacks, describe_fallbacks
    from ..model.checkpoint import Checkpoint
    from .awq_visitor import AwqVisitor
    from .folding import fold_in
    from .rounding import Made, chosen, write

    source = Checkpoint.open(context.inputs["model"].path)
    specs = chosen(source, context.params.choice())
    journal = calibrate(context, source, AwqVisitor(source.architecture, specs, context.params))
    evidence = journal.evidence()
    folded, tensors, transforms = fold_in(source, journal.results(), evidence)
    fallbacks = describe_fallbacks(evidence, "rounded to nearest")
    if fallbacks:
        context.note(fallbacks)
    facts = {"fallbacks": count_fallbacks(evidence), "folds": len(transforms)}
    return write(context, folded, specs, "mse", "awq", Made(tensors, evidence, transforms, facts))
