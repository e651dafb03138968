"""`prune.magnitude`: the smallest entries become zero, needing no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from .choice import PruneParams, preflight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from ..model.checkpoint import Checkpoint
    from ..model.sparsity import Target

    Floats = npt.NDArray[np.float32]

SCOPES = ("row", "tensor", "global")


@dataclass(frozen=True)
class MagnitudeParams(PruneParams):
    """Parameters of `prune.magnitude`."""

    scope: str | None = param(
        None,
        choices=SCOPES,
        doc="what entries are compared within: an output row, a weight, or all weights together, which then "
        "differ in how much they lose; tensor where there is no pattern",
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for a scope beside what decides by itself where zeros are."""
        super().__post_init__()
        if self.scope and self.pattern:
            what = f"prune.scope: {self.scope} and the pattern {self.pattern} are two ways to compare entries"
            raise RecipeError(what, fix="leave one of them out")
        if self.scope == "global" and self.overrides:
            what = "prune.overrides: one threshold for all weights leaves none a sparsity of its own"
            raise RecipeError(what, fix="write scope: tensor, or name weights to leave in ignore")


@stage(
    "prune.magnitude",
    params=MagnitudeParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy", "torch"),
    summary="Set the smallest entries of linear weights to zero; no data needed",
    takes_compact=True,
    preflight=preflight,
)
def run(context: Context[MagnitudeParams]) -> Result:
    """Prunes the checkpoint `model`, one weight in memory at a time.

    Raises RecipeError for patterns that match no weight and groups that do not divide a row.
    """
    from ..model.checkpoint import Checkpoint
    from .choice import choose
    from .stored import write

    source = Checkpoint.open(context.inputs["model"].path)
    targets = choose(source.architecture, context.params)
    pruned = _globally if context.params.scope == "global" else _one_by_one
    weight = pruned(source, targets, context.params)
    facts = {"scope": None if context.params.pattern else context.params.scope or "tensor"}
    return write(context, source, targets, weight, "magnitude", {}, facts)


def _one_by_one(
    source: Checkpoint, targets: Mapping[str, Target], params: MagnitudeParams
) -> Callable[[str], Floats]:
    import torch

    from ..model.calibration.masks import by_magnitude

    turned = {linear.name for linear in source.architecture.linears if linear.stored_in_out}

    def weight(name: str) -> Floats:
        stored = torch.from_numpy(source.tensors.float32(name))
        if name not in turned:
            return by_magnitude(stored, targets[name], params.scope or "tensor").numpy()
        found = by_magnitude(stored.T.contiguous(), targets[name], params.scope or "tensor")
        return found.T.contiguous().numpy()

    return weight


def _globally(
    source: Checkpoint, targets: Mapping[str, Target], params: MagnitudeParams
) -> Callable[[str], Floats]:
    from ..model.calibration.masks import share_of
    from .threshold import Threshold

    read = source.tensors.float32
    entries = sum(source.tensors.info(name).count for name in targets)
    threshold = Threshold(targets, read, share_of(params.target.sparsity, entries))
    return lambda name: threshold.prune(name, read(name))
