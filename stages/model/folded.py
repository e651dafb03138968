"""A checkpoint's tensors with channel scales folded in, tensor by tensor, as they are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...artifacts.tensors import TensorInfo, TensorSource

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    import numpy.typing as npt

    from .fold import Factors


class FoldedTensors(TensorSource):
    """Reads as another source, but for the tensors that change: these are float32, so that nothing is lost.

    changes: see :func:`ingot.stages.model.fold.factors`.  turned: weights that are stored as [in, out].
    """

    def __init__(self, source: TensorSource, changes: Mapping[str, Factors], turned: Collection[str]) -> None:
        super().__init__({}, {})
        self._source = source
        self._changes = changes
        self._turned = turned

    def names(self) -> list[str]:
        """All names, in the order of the source."""
        return self._source.names()

    def __contains__(self, name: object) -> bool:
        return name in self._source

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of a tensor; the place is that of what it is made of."""
        info = self._source.info(name)
        return replace(info, dtype="F32") if name in self._changes else info

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes [nbytes] as they would be stored."""
        import numpy as np

        if name not in self._changes:
            return self._source.raw(name)
        return self.float32(name).reshape(-1).view(np.uint8)

    def array(self, name: str) -> npt.NDArray[Any]:
        """The tensor in its own dtype and shape."""
        return self.float32(name) if name in self._changes else self._source.array(name)

    def float32(self, name: str, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """The tensor, or those rows of its first dimension, as a new float32 array."""
        import numpy as np

        change = self._changes.get(name)
        if change is None:
            return self._source.float32(name, rows)
        if name in self._turned:
            whole = change.apply(self._source.float32(name).T).T
            return np.ascontiguousarray(whole if rows is None else whole[rows])
        return change.apply(self._source.float32(name, rows), rows or slice(None))

    def release(self, name: str) -> None:
        """Lets the system take back the memory that reading this tensor brought in."""
        self._source.release(name)

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
