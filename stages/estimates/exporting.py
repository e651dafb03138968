"""What writing an artifact takes, by its format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import Estimate
from .figures import (
    FLOAT32,
    PROCESS_BYTES,
    PROCESS_SECONDS,
    RUNTIME_BYTES,
    RUNTIME_SECONDS,
    SIDECARS,
    TORCH_BYTES,
    TORCH_SECONDS,
)

if TYPE_CHECKING:
    from ..base import Work


def export_onnx(_params: Any, work: Work) -> Estimate:
    """A float32 graph of a checkpoint; a graph of about the codes' size of a quantized one."""
    quantized = any(kind == "quantized-checkpoint" for kind, _ in work.inputs.values())
    output = (work.input_bytes if quantized else FLOAT32 * work.parameters) + SIDECARS
    return Estimate(
        RUNTIME_SECONDS + 4e-9 * output, RUNTIME_BYTES + output, output, mapped_bytes=work.input_bytes // 2
    )


def export_onnx_mobile(params: Any, work: Work) -> Estimate:
    """`export.onnx` and the graph once more in onnxruntime's format, optimized and held whole."""
    once = export_onnx(params, work)
    return replace(
        once,
        cpu_seconds=once.cpu_seconds + 1 + 8e-9 * once.output_bytes,
        memory_bytes=once.memory_bytes + 2 * once.output_bytes,
        output_bytes=2 * once.output_bytes,
    )


def export_executorch(_params: Any, work: Work) -> Estimate:
    """Lowering takes its time by operators, not by weights: of a small network about a minute."""
    quantized = any(kind == "quantized-checkpoint" for kind, _ in work.inputs.values())
    output = (work.input_bytes if quantized else FLOAT32 * work.parameters) + SIDECARS
    return Estimate(
        (90 if quantized else 45) + 2e-8 * work.parameters,
        TORCH_BYTES + 3 * FLOAT32 * work.parameters,
        output,
        mapped_bytes=work.input_bytes // 2,
    )


def export_transformers(_params: Any, work: Work) -> Estimate:
    """Loaded and run in torch, written, and run in onnxruntime: the weights twice at once."""
    output = FLOAT32 * work.parameters
    return Estimate(
        TORCH_SECONDS + 4 + 8e-9 * output,
        TORCH_BYTES + RUNTIME_BYTES + 2 * output,
        output + SIDECARS,
        mapped_bytes=work.weight_bytes,
    )


def export_checkpoint(_params: Any, work: Work) -> Estimate:
    """Packed weight by weight: a weight's codes and what they become, beside pages of the file."""
    return Estimate(
        PROCESS_SECONDS + 1.2e-8 * work.parameters,
        PROCESS_BYTES + work.input_bytes // 4,
        work.input_bytes + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
    )


def export_aoti(_params: Any, work: Work) -> Estimate:
    """Programs traced operator by operator, which takes seconds whatever the weights, in torch's process."""
    output = 2 * work.parameters + 3 * SIDECARS
    return Estimate(
        TORCH_SECONDS + 10.5 + 6e-9 * work.parameters,
        TORCH_BYTES + output,
        output,
        mapped_bytes=work.input_bytes // 2,
    )
