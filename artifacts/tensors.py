"""Tensors of safetensors files by name, read through memory maps with numpy alone.

Nothing is read before it is asked for, so a checkpoint of any size can be streamed tensor by tensor.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, Self

from .errors import IntakeError
from .tensor_header import TensorInfo, TensorShape, open_regular, parse_header, read_header
from .tensor_writer import SafetensorsWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

__all__ = ["SafetensorsWriter", "TensorInfo", "TensorShape", "TensorSource", "read_header"]

NUMPY_DTYPES: Mapping[str, str] = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip


# Floating-point dtypes that float32 holds, or rounds to nearest.
FLOATS = ("F32", "F16", "BF16", "F64")


def stored_elements(raw: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[Any]:
    """Stored bytes as elements of a dtype of :data:`FLOATS`; BF16, which numpy lacks, as bits."""
    return raw.view("<u2" if dtype == "BF16" else NUMPY_DTYPES[dtype])


def widened(elements: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Elements as :func:`stored_elements` gives them, as a new float32 array of the same shape."""
    import numpy as np

    if dtype == "BF16":
        # The upper half of a float32 is a bfloat16, so widening is a shift.
        wide = elements.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return elements.astype(np.float32)


class TensorSource:
    """The tensors of one or many safetensors files, as one mapping from name to data.

    Reading from several threads at once is safe. Arrays that view a map stay valid after :meth:`close`, which
    only drops this object's hold of it.
    """

    def __init__(self, infos: Mapping[str, TensorInfo], maps: Mapping[Path, mmap.mmap | None]) -> None:
        self._infos = dict(infos)
        self._maps = dict(maps)

    @classmethod
    def open(cls, paths: Iterable[Path]) -> Self:
        """Maps the files and reads their headers from the same open file, so nothing changes in between.

        Raises IntakeError for a malformed file and for a tensor that two files hold.
        """
        infos: dict[str, TensorInfo] = {}
        maps: dict[Path, mmap.mmap | None] = {}
        for path in paths:
            with open_regular(path) as stream:
                found = parse_header(stream, path)
                maps[path] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            for name, info in found.items():
                if name in infos:
                    raise IntakeError(
                        f"{name!r} is stored twice, also in {infos[name].file.name}", where=str(path)
                    )
                infos[name] = info
        return cls(infos, maps)

    @classmethod
    def of_headers(cls, infos: Mapping[str, TensorInfo]) -> Self:
        """Tensors of which the headers alone are known: like a source that was closed."""
        return cls(infos, dict.fromkeys(info.file for info in infos.values()))

    def names(self) -> list[str]:
        """All names, in the order of the files and of the data in each."""
        return list(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and place of a tensor; raises KeyError for a name that is not stored."""
        return self._infos[name]

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The stored bytes [nbytes] as a read-only view of the map."""
        import numpy as np

        info = self._infos[name]
        if info.start == info.stop:
            return np.empty(0, np.uint8)
        return np.frombuffer(self._map(info), np.uint8, info.nbytes, info.start)

    def array(self, name: str) -> npt.NDArray[Any]:
        """The tensor in its own dtype and shape, as a read-only view where the file aligns it, else a copy.

        Raises ValueError for dtypes that numpy lacks (BF16 and the 8-bit floats): see :meth:`float32`.
        """
        import numpy as np

        info = self._infos[name]
        if info.dtype not in NUMPY_DTYPES:
            raise ValueError(f"numpy has no {info.dtype}: read {name} with float32() or raw()")
        array = self.raw(name).view(NUMPY_DTYPES[info.dtype]).reshape(info.shape)
        return np.require(array, requirements="A")

    def float32(self, name: str, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """The tensor, or those rows of its first dimension, as a new float32 array that may be written to.

        F32 is copied, F16 and BF16 are widened exactly, F64 is rounded to nearest.  Raises ValueError for
        other dtypes and for a slice with a step.
        """
        info = self._infos[name]
        if info.dtype not in FLOATS:
            raise ValueError(f"{name} is {info.dtype}, not a floating-point tensor that float32 can hold")
        start, stop, step = (rows or slice(None)).indices(info.shape[0] if info.shape else 1)
        if step != 1 or (rows is not None and not info.shape):
            raise ValueError(f"{name}: rows must be a slice without a step of a tensor with rows")
        part = stored_elements(self.raw(name), info.dtype).reshape(info.shape)
        return widened(part if rows is None else part[start : max(start, stop)], info.dtype)

    def release(self, name: str) -> None:
        """Lets the system take back the memory that reading this tensor brought in; it can be read again."""
        info = self._infos[name]
        first = -(-info.start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = info.stop // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._map(info).madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Drops the maps; tensors cannot be asked for afterwards."""
        self._maps = dict.fromkeys(self._maps)

    def _map(self, info: TensorInfo) -> mmap.mmap:
        found = self._maps[info.file]
        if found is None:
            raise ValueError("the tensor source is closed")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
