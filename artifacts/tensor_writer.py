"""Writes safetensors files to any stream in one pass: a header laid out beforehand, then tensor by tensor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, Self

from .tensor_header import PREFIX_BYTES, TensorShape, check_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    import numpy.typing as npt

# transformers refuses files whose metadata do not say which framework's layout they hold.
METADATA: Mapping[str, str] = {"format": "pt"}

# Element formats of the buffer protocol, as the struct module and numpy name them.
FORMATS: Mapping[str, str] = {
    "?": "BOOL", "B": "U8", "b": "I8", "H": "U16", "h": "I16", "I": "U32", "i": "I32", "L": "U64", "l": "I64",
    "Q": "U64", "q": "I64", "e": "F16", "f": "F32", "d": "F64", "Zf": "C64",
}  # fmt: skip


class Stream(Protocol):
    """Where bytes go; it need not seek."""

    def write(self, data: memoryview, /) -> object:
        """Takes all of ``data``."""


class SafetensorsWriter:
    """A file laid out beforehand and then filled in that order, so that equal content gives equal bytes.

    A layout sorted by falling element size keeps every tensor aligned; readers do not need it.
    Use it as a context: leaving it before every tensor was written raises ValueError.
    """

    def __init__(
        self, stream: Stream, layout: Iterable[TensorShape], metadata: Mapping[str, str] = METADATA
    ) -> None:
        self.layout = tuple(layout)
        self._stream = stream
        self._written = 0
        stream.write(memoryview(header_bytes(self.layout, metadata)))

    def write(self, name: str, data: bytes | memoryview | npt.NDArray[Any]) -> None:
        """The next tensor's elements: an array as laid out, or its little-endian bytes without dimensions.

        Raises ValueError when another tensor is next, or when dtype, shape or length are not as laid out.
        """
        if self._written == len(self.layout):
            raise ValueError(f"{name} was not laid out, or was written before")
        expected = self.layout[self._written]
        if name != expected.name:
            raise ValueError(f"{name} was written where {expected.name} is next")
        view = memoryview(data) if isinstance(data, bytes | memoryview) else data.data
        dtype = FORMATS.get(view.format.lstrip("<@="))
        is_raw = dtype == "U8" and view.ndim == 1
        if not is_raw and (dtype, view.shape) != (expected.dtype, expected.shape):
            raise ValueError(
                f"{name} is {dtype or view.format} {view.shape}, "
                f"but {expected.dtype} {expected.shape} was laid out"
            )
        if view.nbytes != expected.nbytes or not view.c_contiguous:
            raise ValueError(f"{name} is not {expected.nbytes} bytes in C order")
        if view.nbytes:
            self._stream.write(view.cast("B"))
        self._written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._written < len(self.layout):
            raise ValueError(f"{self.layout[self._written].name} was laid out but not written")


def header_bytes(layout: tuple[TensorShape, ...], metadata: Mapping[str, str]) -> bytes:
    """The length prefix and the JSON, padded with spaces so that the data starts at a multiple of 8."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for tensor in layout:
        check_name(tensor.name)
        if tensor.name in header:
            raise ValueError(f"{tensor.name} was laid out twice")
        stop = position + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    padded = text + b" " * (-len(text) % PREFIX_BYTES)
    return len(padded).to_bytes(PREFIX_BYTES, "little") + padded
