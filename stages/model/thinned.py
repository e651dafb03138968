"""Tensors of a checkpoint with rows and columns left out, under the names that they have then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...artifacts.tensors import TensorInfo, TensorSource

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Take:
    """What is taken of a tensor. name: that it is stored under.

    kept: by axis, the places that stay, in order; along other axes everything does.
    factor: what its values are multiplied by, once ``offset`` has been added, which is taken away again.
    """

    name: str
    kept: Mapping[int, Indices] = field(default_factory=dict)
    factor: float = 1.0
    offset: float = 0.0


class ThinnedSource(TensorSource):
    """A source of tensors that are parts of another's; nothing is read before it is asked for.

    takes: by the name here.  changed: of some, float32 values in the shape here, in place of what is stored.
    Its `info` gives the shape here, and the place of the whole tensor in its file.
    """

    def __init__(
        self,
        source: TensorSource,
        takes: Mapping[str, Take],
        changed: Mapping[str, Callable[[], Floats]] | None = None,
    ) -> None:
        infos = {name: _info(source.info(take.name), name, take) for name, take in takes.items()}
        super().__init__(infos, {})
        self._source = source
        self._takes = takes
        self._changed = changed or {}

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The stored bytes [nbytes] of what is here of a tensor; of a changed one, rounded to its dtype."""
        import numpy as np

        info = self.info(name)
        if name in self._changed:
            return _stored(self._changed[name](), info.dtype)
        take = self._takes[name]
        if take.factor != 1.0:
            return _stored(self.float32(name), info.dtype)
        whole = self._source.info(take.name)
        if not take.kept or not info.count:
            return self._source.raw(take.name)[: info.nbytes]
        part = self._source.raw(take.name).reshape(*whole.shape, -1)
        for axis, places in take.kept.items():
            part = part.take(places, axis=axis)
        return np.ascontiguousarray(part).reshape(-1)

    def float32(self, name: str, rows: slice | None = None) -> Floats:
        """What is here of a tensor, or those rows of it, as a new float32 array; see the base class."""
        import numpy as np

        if name in self._changed:
            value = self._changed[name]()
            return np.array(value if rows is None else value[rows])
        take = self._takes[name]
        value = self._source.float32(take.name, None if 0 in take.kept else rows)
        for axis, places in take.kept.items():
            value = value.take(places, axis=axis)
        if 0 in take.kept and rows is not None:
            value = value[rows].copy()
        if take.factor != 1.0:
            value = (value + np.float32(take.offset)) * np.float32(take.factor) - np.float32(take.offset)
        return value

    def release(self, name: str) -> None:
        """Lets the system take back the memory that reading this tensor brought in."""
        self._source.release(self._takes[name].name)


def _info(whole: TensorInfo, name: str, take: Take) -> TensorInfo:
    shape = tuple(
        len(take.kept[axis]) if axis in take.kept else size for axis, size in enumerate(whole.shape)
    )
    return TensorInfo(name, whole.dtype, shape, whole.file, whole.start, whole.stop)


def _stored(value: Floats, dtype: str) -> npt.NDArray[np.uint8]:
    """float32 values as the bytes of a floating-point dtype, rounded to nearest."""
    import torch

    from .dtypes import NAMES

    narrow = torch.from_numpy(value).to(getattr(torch, NAMES[dtype])).contiguous()
    found: npt.NDArray[np.uint8] = narrow.reshape(-1).view(torch.uint8).numpy()
    return found
