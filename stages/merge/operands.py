"""The tensors of opened checkpoints as sources of a merge: read in blocks through the memory map."""

from __future__ import annotations

import functools
import math
import warnings
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ...artifacts.tensors import stored_elements, widened
from ..model.dtypes import NAMES
from .task import Stored

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from ...artifacts.tensors import TensorSource


class StoredOperand:
    """One tensor of a checkpoint, as it is stored; an Operand.

    model: the input's name, such as ``model1``.  Raises KeyError for a tensor that is not there.
    """

    def __init__(self, source: TensorSource, model: str, tensor: str) -> None:
        info = source.info(tensor)
        self.label = f"{model}:{tensor}"
        self.shape = info.shape
        self.stored: Stored | None = Stored(model, tensor, info.dtype)
        self.dtype = info.dtype
        self._tensor = tensor
        self._source = source

    def read(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Elements [start, stop) into ``out``, float32: BF16 and F16 exactly, F64 rounded to nearest.

        Raises InputError for every other dtype.
        """
        if start < stop:
            out.copy_(self._elements[start:stop])

    def widened(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """The same elements as an array of their own, without torch."""
        return widened(stored_elements(self.raw(), self.dtype)[start:stop], self.dtype)

    @functools.cached_property
    def _elements(self) -> torch.Tensor:
        import torch

        if self.dtype not in NAMES:
            raise InputError(f"{self.label} is {self.dtype}, which no arithmetic is done on")
        _warn_once()
        # Files need not align tensors: x86 and ARM read such elements as well, in single loads as in vectors.
        return torch.from_numpy(self.raw()).view(getattr(torch, NAMES[self.dtype]))

    @functools.cached_property
    def address(self) -> int:
        """Where in memory the stored bytes are, as long as this operand is."""
        self._held = self.raw()
        where: int = self._held.__array_interface__["data"][0]
        return where

    def raw(self) -> npt.NDArray[np.uint8]:
        """The stored bytes, as a view of the map."""
        return self._source.raw(self._tensor)

    def release(self) -> None:
        """Lets the system take back the pages that reading brought in."""
        if math.prod(self.shape):
            self._source.release(self._tensor)


@functools.cache
def _warn_once() -> None:
    """Has torch say the only time in a process, unheard, that it cannot keep views of a map from writes."""
    import numpy as np
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(np.frombuffer(b"\0", np.uint8))
