"""What training takes: distillation, fine-tuning, pruning and rounding on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import Estimate
from .figures import CODES, FLOAT32, SIDECARS, TORCH_BYTES, TORCH_SECONDS

if TYPE_CHECKING:
    from ..base import Work


def trained(params: Any, work: Work) -> Estimate:
    """Stages that train: forward and back for every token, forward for those that choose.

    Weights, gradients, two means of the optimizer, and the weights as they would be written, in float32.
    """
    every = params.tokens or int((params.epochs or 1.0) * work.tokens)
    tokens = params.steps * params.batch_size * params.window if params.steps else every
    steps = tokens / (params.batch_size * params.window)
    measured = 1 + (steps / params.evaluate_every if params.evaluate_every else 10)
    chosen = measured * params.selection_windows * params.window
    # Of the blocks and of some distributions over the vocabulary, measured at a thousand tokens.
    part = params.batch_size // params.accumulation * params.window
    activations = int(350_000 * part * (work.parameters / 8e6) ** 0.5)
    return Estimate(
        TORCH_SECONDS + 1.1e-10 * work.parameters * (tokens + chosen / 3),
        TORCH_BYTES + 5 * FLOAT32 * work.parameters + activations,
        work.weight_bytes + SIDECARS,
        parallel=work.cores,
    )


def distilled(params: Any, work: Work) -> Estimate:
    """The same beside a teacher, which runs forward on every token, once where its predictions are kept."""
    found = trained(params, work)
    taught = work.inputs.get("teacher", ("", FLOAT32 * work.parameters))[1]
    return replace(
        found,
        cpu_seconds=found.cpu_seconds * (1.1 if params.top_k else 4 / 3),
        memory_bytes=found.memory_bytes + 2 * taught,
    )


def gradually(params: Any, work: Work) -> Estimate:
    """`prune.gradual`: a training, with a teacher or without, and the weights as they were beside it."""
    found = distilled(params, work) if "teacher1" in work.inputs else trained(params, work)
    return replace(found, memory_bytes=found.memory_bytes + FLOAT32 * work.parameters)


def rounded_training(params: Any, work: Work) -> Estimate:
    """`quantize.qat`: the same with every weight rounded at every step, and codes in the end."""
    found = distilled(params, work) if "teacher1" in work.inputs else trained(params, work)
    return replace(
        found,
        cpu_seconds=1.15 * found.cpu_seconds,
        memory_bytes=found.memory_bytes + 2 * FLOAT32 * work.parameters,
        output_bytes=int(CODES * work.parameters) + SIDECARS,
    )
