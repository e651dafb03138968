"""What measuring quality and cost takes, here and on emulated processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base import Estimate
from .figures import (
    FLOAT32,
    LOGITS_BYTES,
    RUNTIME_BYTES,
    RUNTIME_SECONDS,
    SIDECARS,
    TORCH_BYTES,
    TORCH_SECONDS,
)

if TYPE_CHECKING:
    from ..base import Work


def reference(_params: Any, work: Work) -> Estimate:
    """Two floating-point operations a parameter and token, in torch float32."""
    return Estimate(
        TORCH_SECONDS + 4.5e-11 * work.parameters * work.tokens,
        TORCH_BYTES + FLOAT32 * work.parameters,
        LOGITS_BYTES * work.tokens + SIDECARS,
        parallel=work.cores,
    )


def quality(_params: Any, work: Work) -> Estimate:
    """The same operations through the runtime, whose kernels are faster."""
    _, artifact = work.inputs.get("artifact", ("", 0))
    return Estimate(
        RUNTIME_SECONDS + 1.2e-11 * work.parameters * work.tokens,
        RUNTIME_BYTES + 3 * artifact,
        100 * (work.tokens // 200) + 2000,
        parallel=work.cores,
    )


def cost(params: Any, work: Work) -> Estimate:
    """Fresh processes on both sides in turns, each loading its model and running its passes."""
    tokens = params.passes * (params.prefill_tokens + params.decode_tokens)
    largest = max((size for kind, size in work.inputs.values() if kind != "checkpoint"), default=0)
    repeat = 1.0 + 1.6e-10 * work.parameters * tokens
    return Estimate(0.5 + params.repeats * repeat, RUNTIME_BYTES + 4 * largest // 3, 20_000)


def emulated(params: Any, work: Work) -> Estimate:
    """The artifact on this host, then on each processor some hundreds of times as slow, one after another."""
    _, artifact = work.inputs.get("artifact", ("", 0))
    each = 20 + 4e-9 * work.parameters * 2 * params.tokens
    return Estimate(RUNTIME_SECONDS + len(params.processors) * each, RUNTIME_BYTES + 3 * artifact, 5000)
