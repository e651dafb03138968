"""Whether two checkpoints compute the same: both take short random rows of tokens, a block in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import StageError

if TYPE_CHECKING:
    import torch

    from .checkpoint import Checkpoint

# Of the largest output: sums in float32 in another order differ by some 1e-6 a layer, weights that are
# rounded once more by up to 2^-11 or 2^-8 each.
TOLERANCES = {"F64": 1e-3, "F32": 1e-3, "F16": 2e-2, "BF16": 1e-1}


@dataclass(frozen=True)
class Difference:
    """Of the outputs: logits, or an encoder's last states. largest: of the first checkpoint's, absolute.

    error: the largest difference, absolute.  top1: share of positions with the same largest output.
    """

    largest: float
    error: float
    top1: float


def require_same(before: Checkpoint, after: Checkpoint, what: str, dtype: str = "F32") -> Difference:
    """How far apart the outputs of two checkpoints are, in float32 (see :func:`.parity.inputs` for the rows).

    what: the stage that made the second of the first.  dtype: the narrowest that it stored weights in.
    Raises StageError where they differ by more than that explains.
    """
    import torch

    first, second = outputs(before), outputs(after)
    error, largest = float((first - second).abs().max()), float(first.abs().max())
    if not error <= TOLERANCES[dtype] * largest:
        raise StageError(
            f"{what} changed what the network computes: by {error:.3g}, of outputs up to {largest:.3g}",
            where=str(after.directory),
            fix="leave the stage out, and report this with the model's config.json",
        )
    same = first.argmax(-1) == second.argmax(-1)
    return Difference(largest, error, float(same.to(torch.float32).mean()))


def outputs(checkpoint: Checkpoint) -> torch.Tensor:
    """What a checkpoint gives for the fixed rows, one after another: float32 [positions, width]."""
    import torch

    from .blocks.layer import finish
    from .blocks.network import Batch, State, advance, steps
    from .blocks.tensors import BlockTensors
    from .parity import inputs, source_inputs

    model, outline = checkpoint.architecture, checkpoint.outline
    rows = [torch.from_numpy(row)[None] for row in inputs(outline.vocabulary, outline.context)]
    sources: list[torch.Tensor | None] = [None] * len(rows)
    if outline.source_context is not None:
        found = source_inputs(outline.vocabulary, outline.source_context)
        sources = [torch.from_numpy(row)[None] for row in found]
    batches = [Batch(row, source) for row, source in zip(rows, sources, strict=True)]
    states = [State(torch.empty(0)) for _ in batches]
    tensors = BlockTensors(checkpoint.tensors, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        for step in steps(model):
            runs = [
                step.run(tensors, _kept, batch, state) for batch, state in zip(batches, states, strict=True)
            ]
            states = [
                advance(step, state.memory, finish(run)) for run, state in zip(runs, states, strict=True)
            ]
            tensors.release()
    return torch.cat([state.hidden[0] for state in states])


def _kept(value: torch.Tensor) -> torch.Tensor:
    return value
