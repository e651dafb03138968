"""Whether the zeros of a pruned checkpoint are zeros still once it is quantized: counted, not assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.levels import levels
from ..model.quantized import QuantizedCheckpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ..model.checkpoint import Checkpoint
    from ..model.quantized import QuantizedWeight, WeightSpec

# Trained weights are hardly ever exactly zero: from this share of them on, somebody pruned.
SPARSE = 0.01


def count_zeros(
    source: Checkpoint, directory: Path, specs: Mapping[str, WeightSpec]
) -> dict[str, float] | None:
    """input_sparsity, the share of zeros in the linear weights that were quantized, and zeros_kept, of those
    the share that codes stand for zero too; None where the input is not sparse.

    directory: of the quantized checkpoint that was written.
    """
    names = [linear.name for linear in source.architecture.linears if linear.name in specs]
    masks = ((name, _zeros(source, name, specs[name])) for name in names)
    counts = {name: int(mask.sum()) for name, mask in masks}
    total = sum(counts.values())
    parameters = sum(specs[name].parameters for name in names)
    if total < SPARSE * parameters:
        return None
    made = QuantizedCheckpoint.open(directory)
    kept = 0
    for name in names:
        if counts[name]:
            kept += int((_zeros(source, name, specs[name]) & _zero_codes(made.weight(name))).sum())
    return {"input_sparsity": round(total / parameters, 6), "zeros_kept": kept / total}


def _zeros(source: Checkpoint, name: str, spec: WeightSpec) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = source.tensors.float32(name) == 0
    source.tensors.release(name)
    return mask.T if spec.stored_in_out else mask


def _zero_codes(weight: QuantizedWeight) -> npt.NDArray[np.bool_]:
    """bool [out, in]: where (code − zero) · scale, or level · scale, is exactly 0."""
    import numpy as np

    spec = weight.spec
    group = np.arange(spec.shape[1]) // (spec.format.group_size or spec.shape[1])
    if spec.format.numeric == "int":
        found: npt.NDArray[np.bool_] = weight.codes == weight.zeros[:, group]
        return found
    return np.asarray(levels(spec.format.numeric) == 0)[weight.codes]
