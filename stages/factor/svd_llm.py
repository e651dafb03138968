"""`factor.svd_llm`: each weight becomes the two maps whose outputs are nearest to its own on a text."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.calibration.calibrate import CalibratedParams
from .choice import FactorParams, preflight


@dataclass(frozen=True)
class SvdLlmParams(CalibratedParams, FactorParams):
    """Parameters of `factor.svd_llm`."""

    damp_percent: float = param(
        0.01,
        minimum=0.0,
        maximum=1.0,
        doc="share of its mean that is added to the diagonal of the inputs' covariance; a hundredth, which "
        "grows by itself where it is singular",
    )
    error_correction: bool = param(
        True,
        doc="aim at what the original network gives, not at what factored layers before leave of it; that "
        "takes a quarter off what is lost, at the price of a second network beside the first",
    )


@stage(
    "factor.svd_llm",
    params=SvdLlmParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="SVD-LLM: linear weights become two thinner ones, as their inputs weigh them; needs a text",
    preflight=preflight,
    takes_compact=True,
    makes_compact=True,
)
def run(context: Context[SvdLlmParams]) -> Result:
    """Factors the weights of the checkpoint `model` (arXiv:2403.07378), later ones by what factored ones
    before them give.

    Raises RecipeError for patterns that match no weight and where nothing would become smaller, DataError for
    a calibration text that cannot be used, StageError for inputs that are not finite.
    """
    from ..model.calibration.calibrate import calibrate
    from ..model.calibration.fallbacks import describe_fallbacks
    from ..model.calibration.gradients import squared_gradients
    from ..model.checkpoint import Checkpoint
    from .choice import choose, nothing_saved
    from .factored import Factored
    from .ranks import largest_rank, ranks_of
    from .stored import write
    from .visitor import FIRST, SECOND, FactorVisitor, SpectraVisitor

    params = context.params
    source = Checkpoint.open(context.inputs["model"].path)
    linears = choose(source.architecture, params)
    dtypes = {name: source.tensors.info(name).dtype for name in linears}
    ranks: dict[str, int | None] | None = None
    if params.budget is not None:
        squares = squared_gradients(context, source)
        most = {name: largest_rank(linear, params.multiple_of) for name, linear in linears.items()}
        looking = SpectraVisitor(most, squares, params, context.seed)
        spectra = calibrate(context, source, looking, "spectra").results()
        ranks = ranks_of(params, linears, {name: spectra.float32(name).astype("f8") for name in linears})
    elif params.energy is None:
        ranks = ranks_of(params, linears, {})
    if ranks is not None and not any(ranks.values()):
        raise nothing_saved(params)
    visitor = FactorVisitor(linears, ranks, dtypes, params, context.seed)
    journal = calibrate(context, source, visitor, "factors")
    evidence, results = journal.evidence(), journal.results()
    ranks = {name: evidence[name]["rank"] for name in linears}  # type: ignore[index]
    if not any(ranks.values()):
        raise nothing_saved(params)
    if remark := describe_fallbacks(evidence, "factored without regard to their inputs"):
        context.note(remark)

    def made(name: str) -> Factored:
        return Factored(results.float32(f"{name}{SECOND}"), results.float32(f"{name}{FIRST}"))

    return write(context, source, linears, ranks, made, "svd_llm", evidence)
