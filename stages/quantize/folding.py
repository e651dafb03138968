"""Channel scales that a calibrated method chose, folded into what is written.

Codes of scaled weights are already those of W·diag(s). What makes their input is divided by s: a norm's gain
and shift, and a bias, as float32 tensors; the rows of a weight by its scales, so that its codes stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..model.families import Norm
from ..model.fold import Factors, factors, folds
from ..model.folded import FoldedTensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...artifacts.tensors import TensorSource
    from ..model.checkpoint import Checkpoint


def key_of(place: int) -> str:
    """What the scales, float32 [width], of the fold at that place of :func:`folds` are kept as."""
    return f"channel_scales.{place}"


def fold_in(
    source: Checkpoint, results: TensorSource, evidence: Mapping[str, Any]
) -> tuple[Checkpoint, TensorSource, list[Mapping[str, object]]]:
    """The checkpoint and a walk's results with all scales among the results folded in, and the record of it.

    The record's entries are transform, source, readers, alpha, and the lowest and highest scale.
    """
    model = source.architecture
    applied = [
        (fold, results.float32(key_of(place)))
        for place, fold in enumerate(folds(model))
        if key_of(place) in results
    ]
    changes = factors(applied)
    turned = {linear.name for linear in model.linears if linear.stored_in_out}
    rows = {
        f"{name}.scales": Factors(rows=change.rows)
        for name, change in changes.items()
        if change.rows is not None and f"{name}.scales" in results
    }
    transforms: list[Mapping[str, object]] = [
        {
            "transform": "channel_scales",
            "source": fold.source.weight if isinstance(fold.source, Norm) else fold.source.linear.name,
            "readers": [linear.name for linear in fold.readers],
            "alpha": evidence[fold.readers[0].name]["alpha"],
            "lowest": float(scales.min()),
            "highest": float(scales.max()),
        }
        for fold, scales in applied
    ]
    folded = replace(source, tensors=FoldedTensors(source.tensors, changes, turned))
    return folded, FoldedTensors(results, rows, ()), transforms
