"""One weight as the two maps that are stored in its place, and what that loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.calibration.second_order import relative_error
from ..model.dtypes import NAMES
from .decompose import refitted

if TYPE_CHECKING:
    import numpy.typing as npt

    from .decompose import Decomposition, Doubles

    Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Factored:
    """second: float32 [out, rank].  first: [rank, in].  Their values are those that a stored dtype holds."""

    second: Floats
    first: Floats

    @property
    def product(self) -> torch.Tensor:
        """The weight that the two make, float32 [out, in]."""
        return torch.from_numpy(self.second) @ torch.from_numpy(self.first)

    @property
    def rank(self) -> int:
        """How many features lie between the two."""
        return len(self.first)


def factored(found: Decomposition, rank: int, dtype: str) -> Factored:
    """The two maps of that rank, each rounded to the dtype it is stored in, such as `BF16`."""
    second, first = found.factors(rank)
    return Factored(rounded(second, dtype), rounded(first, dtype))


def fitted(made: Factored, weight: Doubles, hessian: Doubles, damp: float, dtype: str) -> Factored:
    """``made`` with the second map fitted to the first as it is stored, where that loses less."""
    anew = Factored(
        rounded(refitted(weight, made.first.astype(np.float64), hessian, damp), dtype), made.first
    )
    aim, seen = torch.from_numpy(weight).float(), torch.from_numpy(hessian).float()
    better = relative_error(aim, anew.product, seen) < relative_error(aim, made.product, seen)
    return anew if better else made


def rounded(value: Doubles, dtype: str) -> Floats:
    """The nearest values that a tensor stored as ``dtype`` holds, as float32."""
    found = torch.from_numpy(value).float().to(getattr(torch, NAMES[dtype])).float()
    return np.ascontiguousarray(found.numpy())
