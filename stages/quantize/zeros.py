"""Whether the zeros of a pruned checkpoint are zeros still once it is quantized: counted, not assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model.levels import levels

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    from ..model.quantized import WeightSpec

    Codes = npt.NDArray[np.integer]

# Trained weights are hardly ever exactly zero: from this share of them on, somebody pruned.
SPARSE = 0.01


@dataclass(frozen=True)
class Zeros:
    """parameters: of weights.  zero: how many of them are 0.  kept: of those, how many are by their codes."""

    parameters: int = 0
    zero: int = 0
    kept: int = 0

    @staticmethod
    def count(weight: npt.NDArray[np.float32], codes: Codes, zeros: Codes | None, spec: WeightSpec) -> Zeros:
        """Of rows of a weight [rows, in] beside their codes; zeros: [rows, groups], None where a code is a
        level of its format.
        """
        import numpy as np

        mask = weight == 0
        found = int(mask.sum())
        if not found:
            return Zeros(weight.size)
        if zeros is None:
            stands = np.asarray(levels(spec.format.numeric) == 0)[codes]
        else:
            stands = codes == zeros[:, np.arange(spec.shape[1]) // (spec.format.group_size or spec.shape[1])]
        return Zeros(weight.size, found, int((mask & stands).sum()))

    @staticmethod
    def sum(parts: Iterable[Zeros]) -> Zeros:
        """Of all together."""
        found = [(each.parameters, each.zero, each.kept) for each in parts]
        return Zeros(*(sum(column) for column in zip(*found, strict=True))) if found else Zeros()

    @property
    def facts(self) -> dict[str, float]:
        """input_sparsity, the share of zeros, and zeros_kept, of those the share that codes stand for zero
        too; nothing where the input is not sparse.
        """
        if not self.zero or self.zero < SPARSE * self.parameters:
            return {}
        return {
            "input_sparsity": round(self.zero / self.parameters, 6), "zeros_kept": self.kept / self.zero,
        }  # fmt: skip
