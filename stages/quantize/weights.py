"""A rounded weight as the arrays that are stored, and what can be said of it without its inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from ..model.quantized import WeightFormat
    from .hessian import Levels


def parts_of(name: str, levels: Levels, codes: torch.Tensor) -> dict[str, npt.NDArray[np.generic]]:
    """codes [rows, in], scales and zeros [rows, groups] of a weight, under the names they are stored by."""
    return {
        f"{name}.codes": codes.cpu().numpy().astype(np.uint8),
        f"{name}.scales": np.ascontiguousarray(levels.scales.cpu().numpy()),
        f"{name}.zeros": levels.zeros.cpu().numpy().astype(np.uint8),
    }


def evidence_of(weight: torch.Tensor, found: torch.Tensor, form: WeightFormat) -> dict[str, object]:
    """bits, group_size, sym; relative_error ‖W − Ŵ‖ / ‖W‖ (Frobenius) and snr_db, −20 log10 of it.

    snr_db is None for a weight without error: what is observed is JSON, which has no infinity.
    """
    whole = float(weight.norm())
    relative = float((weight - found).norm()) / whole if whole else 0.0
    return {
        "bits": form.bits,
        "group_size": form.group_size,
        "sym": form.sym,
        "relative_error": relative,
        "snr_db": -20 * math.log10(relative) if relative else None,
    }
