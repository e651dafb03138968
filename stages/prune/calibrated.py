"""What `prune.wanda` and `prune.sparsegpt` share: their parameters, and the walk behind their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..model.calibration.calibrate import CalibratedParams
from .choice import PruneParams

if TYPE_CHECKING:
    from ..base import Context, Result
    from .visitor import Method


@dataclass(frozen=True)
class CalibratedPruneParams(CalibratedParams, PruneParams):
    """Parameters of every pruning method that takes a text through the network."""


def prune(context: Context[Any], method: Method) -> Result:
    """Takes the calibration text through the checkpoint `model`, and writes what ``method`` made of it.

    Raises RecipeError for patterns that match no weight and groups that do not divide a row, DataError for a
    calibration text that cannot be used, StageError for inputs that are not finite.
    """
    from ..model.calibration.calibrate import calibrate
    from ..model.calibration.fallbacks import count_fallbacks, describe_fallbacks
    from ..model.checkpoint import Checkpoint
    from .choice import choose
    from .stored import write
    from .visitor import PruneVisitor

    source = Checkpoint.open(context.inputs["model"].path)
    targets = choose(source.architecture, context.params)
    journal = calibrate(context, source, PruneVisitor(source.tensors, targets, method))
    evidence = journal.evidence()
    if remark := describe_fallbacks(evidence, "pruned by magnitude"):
        context.note(remark)
    facts = {"fallbacks": count_fallbacks(evidence)}
    return write(context, source, targets, journal.results().float32, method.name, evidence, facts)
