"""Floating-point numbers in the dtype that a graph computes in, as the bits that are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ....artifacts.errors import InputError
from ...model.packed.scales import to_bfloat16

if TYPE_CHECKING:
    import numpy.typing as npt

FLOATING = ("float32", "float16", "bfloat16")


def narrowed(values: npt.NDArray[np.float32], dtype: str, name: str) -> npt.NDArray[Any]:
    """float32 rounded to nearest, ties to even; bfloat16, which numpy lacks, as uint16.

    Raises InputError where a finite number overflows: float16 ends at 65504.
    """
    if dtype == "float32":
        return np.ascontiguousarray(values)
    if dtype == "bfloat16":
        return to_bfloat16(values).reshape(values.shape)
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(values, np.float32).astype(np.float16)
    if np.isinf(found).any() and np.isfinite(values[np.isinf(found)]).any():
        largest = float(np.abs(values[np.isfinite(values)]).max())
        raise InputError(
            f"{name} holds {largest:.6g}, and float16 ends at 65504", fix="set export.dtype: bfloat16"
        )
    return found
