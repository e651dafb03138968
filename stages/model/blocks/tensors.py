"""A network's tensors in torch, brought in when they are first asked for and let go a block at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from ..families import Linear


class Readable(Protocol):
    """Where tensors come from: the files of a checkpoint, or whatever gives as much."""

    def float32(self, name: str, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """The tensor, or those rows of it, as an array of its own."""

    def release(self, name: str) -> None:
        """Lets go of what reading it brought in."""


class BlockTensors:
    """The tensors of the block at hand, on ``device``; matrices in ``dtype``, all else in float32.

    Matrices can be replaced, as quantizers do, by what the rest of the network is to compute with.
    """

    def __init__(self, source: Readable, device: torch.device, dtype: torch.dtype) -> None:
        self._source = source
        self.device = device
        self.dtype = dtype
        self._held: dict[str, torch.Tensor] = {}

    def vector(self, name: str) -> torch.Tensor:
        """A bias, the scale of a norm or a table of positions, float32."""
        if name not in self._held:
            self._held[name] = torch.from_numpy(self._source.float32(name)).to(self.device)
        return self._held[name]

    def rows(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        """Rows of a large table that never comes in whole: int64 [...] → float32 [..., width]."""
        used, places = torch.unique(ids.cpu(), return_inverse=True)
        found = [self._source.float32(name, rows=slice(row, row + 1)) for row in used.tolist()]
        return torch.from_numpy(np.concatenate(found))[places].to(self.device)

    def matrix(self, linear: Linear) -> torch.Tensor:
        """The weight of a linear map as [out, in], or what replaced it."""
        if linear.name not in self._held:
            self._held[linear.name] = self.original(linear).to(self.device, self.dtype)
        return self._held[linear.name]

    def bring(self, linears: Iterable[Linear]) -> None:
        """Brings matrices in before threads ask for them, each of which would read them for itself."""
        for linear in linears:
            self.matrix(linear)

    def original(self, linear: Linear) -> torch.Tensor:
        """The checkpoint's own weight, float32 [out, in], on the processor."""
        weight = torch.from_numpy(self._source.float32(linear.name))
        return weight.T.contiguous() if linear.stored_in_out else weight

    def replace(self, linear: Linear, weight: torch.Tensor) -> None:
        """Lets the network compute with ``weight`` [out, in] from here on; it may have another shape."""
        self._held[linear.name] = weight.to(self.device, self.dtype)

    def replace_vector(self, name: str, value: torch.Tensor) -> None:
        """Lets the network compute with another bias from here on, float32."""
        self._held[name] = value.to(self.device)

    def given(self, _linear: Linear, value: torch.Tensor) -> torch.Tensor:
        """What a linear map gave, to go on with; for those who look at it."""
        return value

    def release(self) -> None:
        """Lets go of everything, replacements included, and of the pages that reading it brought in."""
        for name in self._held:
            self._source.release(name)
        self._held.clear()
