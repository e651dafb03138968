"""`quantize.gptq`: what is not yet rounded makes up for what is, by second-order statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.sparsity import GROUPS, Target, require_divided, target
from .calibrated import CalibratedWeightParams
from .formats import GROUP_SIZES, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.families import Architecture
    from ..model.quantized import WeightSpec


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
        doc="share of the mean of the Hessian's diagonal that is added to it: 0.01 is 1 %, as in the paper; "
        "it grows by itself where a Hessian is singular",
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
    error_correction: bool | None = param(
        None,
        doc="aim at what the original network computes, with the errors of all earlier layers in the inputs; "
        "takes a quarter off the loss at 3 bits for about twice the time, and as much of what pruning loses: "
        "by default true with sparsity or a pattern, false without",
    )
    sparsity: float | None = param(
        None,
        minimum=0.0,
        maximum=1.0,
        doc="share of each weight of the layers that becomes zero on the way, as by prune.sparsegpt; none, "
        "since sparse kernels are rare",
    )
    pattern: str | None = param(
        None, choices=tuple(GROUPS), doc="in its place 2:4 or 4:8: of so many inputs at most so many stay"
    )
    keep_zeros: bool = param(
        True,
        doc="what is exactly zero stays so, though errors of other columns would move it; of trained weights "
        "hardly any is, of pruned ones half",
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for a sparsity out of range, and for one beside a pattern."""
        self.target()

    @property
    def corrects(self) -> bool:
        """Whether weights aim at what the original network computes."""
        is_sparse = self.target() is not None
        return is_sparse if self.error_correction is None else self.error_correction

    def target(self) -> Target | None:
        """How much of each weight becomes zero on the way."""
        if self.sparsity is None and self.pattern is None:
            return None
        return target("quantize", self.sparsity, self.pattern)


def formats(params: GptqParams, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored.

    Raises RecipeError for patterns that match no weight, and for a sparse one that does not divide a row.
    """
    specs, sparse = choose(model, params.choice()), params.target()
    for linear in model.linears:
        if sparse is not None and linear.layer is not None and linear.name in specs:
            require_divided(linear, sparse)
    return specs


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
    takes_compact=True,
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
    formats(context.params, source.architecture)
    specs = chosen(source, context.params.choice())
    visitor = GptqVisitor(source.architecture, specs, context.params)
    journal = calibrate(context, source, visitor)
    evidence: dict[str, Any] = journal.evidence()
    fallbacks = describe_fallbacks(evidence, "rounded to nearest")
    if fallbacks:
        context.note(fallbacks)
    facts: dict[str, object] = {"fallbacks": count_fallbacks(evidence)}
    sparse = {name: entry["sparsity"] for name, entry in evidence.items() if "sparsity" in entry}
    if sparse:
        zeros = sum(share * specs[name].parameters for name, share in sparse.items())
        facts["sparsity"] = round(zeros / sum(specs[name].parameters for name in sparse), 6)
    made = Made(journal.results(), evidence, facts=facts)
    return write(context, source, specs, "mse", "gptq", made)
