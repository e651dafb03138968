"""How many parameters an artifact holds at each width, and whether the whole checkpoint arrived in it."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError, StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture
    from ..model.quantized import QuantizedCheckpoint


def account(
    used: Mapping[str, tuple[str, int]],
    checkpoint: Checkpoint,
    quantized: QuantizedCheckpoint | None,
    model: Architecture,
) -> dict[str, dict[str, int]]:
    """How many tensors and parameters the network holds at each width, such as `int4` or `float32`.

    used: the width and the elements of each tensor that arrived.  Raises IntakeError for a tensor of the
    checkpoint that was left out and that the architecture does not name as unused, StageError when nothing
    of a quantized checkpoint arrived.
    """
    specs = quantized.quantized if quantized else {}
    parts = {part.name for name, spec in specs.items() for part in spec.layout(name)}
    names = [name for name in checkpoint.tensors.names() if name not in parts]
    for name in (*names, *specs):
        ignored = any(fnmatch.fnmatchcase(name, pattern) for pattern in model.ignored)
        if name not in used and not ignored:
            raise IntakeError(
                f"the tensor {name} is not part of a {model.model_type} network",
                where=str(checkpoint.directory),
                fix="check that config.json belongs to these weights",
            )
    if quantized is not None and not any(name in used for name in specs):
        raise StageError("the checkpoint is quantized, but no quantized weight arrived in the network")
    counts: dict[str, dict[str, int]] = {}
    for width, parameters in used.values():
        entry = counts.setdefault(width, {"tensors": 0, "parameters": 0})
        entry["tensors"] += 1
        entry["parameters"] += parameters
    return dict(sorted(counts.items()))
