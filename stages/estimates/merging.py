"""What merging, folding and adapters take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import Estimate
from .figures import FLOAT32, MB, PROCESS_BYTES, PROCESS_SECONDS, SIDECARS, TORCH_BYTES, TORCH_SECONDS

if TYPE_CHECKING:
    from ..base import Work


def merge(_params: Any, work: Work) -> Estimate:
    """`merge` and its methods: every input read, one written; trimming takes a few passes more."""
    largest = max((size for _, size in work.inputs.values()), default=work.weight_bytes)
    moved = (work.input_bytes or work.weight_bytes) + largest
    return Estimate(
        TORCH_SECONDS + 2e-9 * moved,
        TORCH_BYTES,
        largest,
        mapped_bytes=min(moved, 256 * MB),
        parallel=work.cores,
    )


def merge_measured(params: Any, work: Work) -> Estimate:
    """`merge.fisher` and `merge.regmean`: a text through each model first, there and for some back as well.

    What is found of a model has a number for every weight, or about as many.
    """
    merged = merge(params, work)
    tokens = params.samples * params.window
    models = max(2, len(work.inputs))
    seconds = models * (3e-10 * tokens + 2e-9) * work.parameters
    return replace(
        merged,
        cpu_seconds=merged.cpu_seconds + seconds,
        memory_bytes=TORCH_BYTES + params.activation_budget_mb * MB + FLOAT32 * work.parameters // 2,
    )


def merge_search(params: Any, work: Work) -> Estimate:
    """`merge.search`: every trial makes the whole merge and takes its texts through it."""
    merged = merge(params, work)
    windows = params.trials * params.samples + (params.finalists + 4) * params.final_samples
    tokens = windows * params.window * len(params.selection)
    trials = params.trials + params.finalists + 4
    seconds = trials * (5e-9 * work.parameters + 0.1) + 1.2e-10 * work.parameters * tokens
    memory_bytes = TORCH_BYTES + FLOAT32 * work.parameters // 4
    return replace(merged, cpu_seconds=merged.cpu_seconds + seconds, memory_bytes=memory_bytes)


def lora(_params: Any, work: Work) -> Estimate:
    """`fuse.lora`: a pass over every tensor that changes in blocks of float64, one tensor in memory."""
    kind, base = work.inputs.get("model", ("", work.weight_bytes))
    return Estimate(
        PROCESS_SECONDS + 1e-8 * work.parameters,
        PROCESS_BYTES + FLOAT32 * work.parameters // 4,
        (FLOAT32 * work.parameters if kind == "quantized-checkpoint" else base) + SIDECARS,
        mapped_bytes=base // 4,
        parallel=work.cores,
    )


def extract_lora(params: Any, work: Work) -> Estimate:
    """`fuse.extract_lora`: eleven products with a few columns more than the rank; one tensor in memory."""
    return Estimate(
        PROCESS_SECONDS + (2e-8 + 1e-9 * params.rank) * work.parameters,
        PROCESS_BYTES + 3 * FLOAT32 * work.parameters // 4,
        2 * FLOAT32 * params.rank * int(7 * (work.parameters / 12) ** 0.5) + SIDECARS,
        mapped_bytes=work.input_bytes // 4,
        parallel=work.cores,
    )


def norms(_params: Any, work: Work) -> Estimate:
    """`fuse.norms` and `fuse.qkv`: one tensor in memory; then both networks on some tokens, by block."""
    output = FLOAT32 * work.parameters
    return Estimate(
        TORCH_SECONDS + 2e-8 * work.parameters, TORCH_BYTES + 3 * output // 4, output + SIDECARS,
        mapped_bytes=work.input_bytes // 4,
    )  # fmt: skip
