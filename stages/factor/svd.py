"""`factor.svd`: each weight becomes the two maps nearest to it, needing no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base import Context, Result, stage
from .choice import FactorParams, preflight

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..model.checkpoint import Checkpoint
    from ..model.families import Linear


@dataclass(frozen=True)
class SvdParams(FactorParams):
    """Parameters of `factor.svd`."""


@stage(
    "factor.svd",
    params=SvdParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "torch"),
    summary="Truncated SVD: linear weights become two thinner ones; no data needed",
    preflight=preflight,
    takes_compact=True,
    makes_compact=True,
)
def run(context: Context[SvdParams]) -> Result:
    """Factors the weights of the checkpoint `model`, one in memory at a time.

    Raises RecipeError for patterns that match no weight, and where nothing would become smaller.
    """
    from ..model.checkpoint import Checkpoint
    from .choice import choose, nothing_saved
    from .decompose import decompose
    from .factored import Factored, factored
    from .ranks import largest_rank, needs_spectra, ranks_of
    from .stored import write

    params = context.params
    source = Checkpoint.open(context.inputs["model"].path)
    linears = choose(source.architecture, params)
    evidence: dict[str, dict[str, object]] = {}

    def made(name: str) -> Factored:
        rank = ranks[name] or 0
        found = decompose(_weight(source, linears[name]), None, rank, context.seed)
        evidence[name] = {"missed": float(found.dropped()[rank]) ** 0.5}
        return factored(found, rank, source.tensors.info(name).dtype)

    dropped = {}
    for done, (name, linear) in enumerate(linears.items() if needs_spectra(params) else ()):
        context.progress(done, len(linears), f"singular values of {name}")
        count = largest_rank(linear, params.multiple_of)
        dropped[name] = decompose(_weight(source, linear), None, count, context.seed).dropped()
        source.tensors.release(name)
    ranks = ranks_of(params, linears, dropped)
    if not any(ranks.values()):
        raise nothing_saved(params)
    return write(context, source, linears, ranks, made, "svd", evidence)


def _weight(source: Checkpoint, linear: Linear) -> npt.NDArray[np.float64]:
    import numpy as np

    value = source.tensors.float32(linear.name).astype(np.float64)
    return value.T if linear.stored_in_out else value
