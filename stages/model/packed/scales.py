"""Scales in the dtype that a layout's kernels hold, and what that costs; reading them back is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....artifacts.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
STORED = tuple(DTYPES.values())


def cast(scales: Floats, dtype: str) -> npt.NDArray[Any]:
    """The scales, rounded to nearest, ready to be written: bfloat16, which numpy lacks, as its bytes.

    Raises InputError where one overflows or becomes 0.
    """
    import numpy as np

    if dtype == "float32":
        return np.ascontiguousarray(scales)
    if dtype == "bfloat16":
        halves = to_bfloat16(scales)
        _require(scales, _widened(halves), dtype)
        return halves.view(np.uint8).reshape(-1)
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(scales).astype(np.float16)
    _require(scales, found.astype(np.float32), dtype)
    return found


def cast_error(scales: Floats, dtype: str) -> float:
    """The largest share by which :func:`cast` changes one of the scales."""
    import numpy as np

    if dtype == "float32" or not scales.size:
        return 0.0
    found = _widened(to_bfloat16(scales)) if dtype == "bfloat16" else scales.astype(np.float16)
    return float(np.max(np.abs(found.astype(np.float64) / scales - 1)))


def to_bfloat16(scales: Floats) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest, ties to even."""
    import numpy as np

    bits = np.ascontiguousarray(scales).view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))
    return (bits >> np.uint64(16)).astype(np.uint16)


def _widened(halves: npt.NDArray[np.uint16]) -> Floats:
    import numpy as np

    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _require(scales: Floats, found: Floats, dtype: str) -> None:
    import numpy as np

    if not np.isfinite(found).all() or ((found == 0) & (scales != 0)).any():
        worst = float(np.max(scales)) if not np.isfinite(found).all() else float(np.min(np.abs(scales)))
        raise InputError(
            f"a scale of {worst:.3g} is outside of what {dtype} holds", fix="set export.scale_dtype: float32"
        )
