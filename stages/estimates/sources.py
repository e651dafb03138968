"""What reading checkpoints and adapters takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base import Estimate
from .figures import CODES, FLOAT32, MB, PROCESS_BYTES, PROCESS_SECONDS, SIDECARS

if TYPE_CHECKING:
    from ..base import Work


def load(_params: Any, work: Work) -> Estimate:
    """Copied and checked as the bytes pass."""
    copied = work.weight_bytes
    return Estimate(
        PROCESS_SECONDS + 1.5e-9 * copied, PROCESS_BYTES, copied + SIDECARS, mapped_bytes=min(copied, 64 * MB)
    )


def load_quantized(_params: Any, work: Work) -> Estimate:
    """Unpacked weight by weight to a byte a code."""
    return Estimate(
        PROCESS_SECONDS + 1e-8 * work.parameters,
        PROCESS_BYTES + work.weight_bytes // 4,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.weight_bytes // 2,
    )


def load_adapter(_params: Any, work: Work) -> Estimate:
    """Copied and checked as the bytes pass; an adapter is about a fiftieth of its model."""
    copied = work.weight_bytes // 50
    return Estimate(PROCESS_SECONDS + 1.5e-9 * copied, PROCESS_BYTES, copied + SIDECARS)


def dequantize(_params: Any, work: Work) -> Estimate:
    """Four bytes a weight, weight by weight."""
    output = FLOAT32 * work.parameters
    return Estimate(
        PROCESS_SECONDS + 6e-9 * work.parameters,
        PROCESS_BYTES + output // 4,
        output + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
    )
