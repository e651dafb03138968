"""The header of a safetensors file, read strictly: what is wrong with it is found before its data is touched.

The format: 8 bytes, little-endian, hold the length of a JSON object; the object maps each tensor's name to
its dtype, shape and offsets into the data that follows (https://huggingface.co/docs/safetensors). The library
itself accepts duplicate keys, names with control characters or path traversal, and any number of tensors;
this does not.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .errors import IntakeError
from .strict_json import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEADER_BYTES = 16 << 20
# Of one file. Checkpoints with more are sharded; no shard of today comes near.
MAX_TENSORS = 50_000
# An entry, its two lists, and the numbers of a tensor with six dimensions.
MAX_VALUES = 12 * MAX_TENSORS
MAX_NAME_CHARACTERS = 512
MAX_DIMENSIONS = 32
PREFIX_BYTES = 8

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class TensorShape:
    """A tensor's name, safetensors dtype (`F32`, `BF16`, `U8` …) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many elements it has; a tensor without dimensions has one."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its elements take; raises ValueError when they do not end at a whole byte."""
        bits = self.count * DTYPE_BITS[self.dtype]
        if bits % 8:
            raise ValueError(f"{self.count} elements of {self.dtype} do not fill whole bytes")
        return bits // 8


@dataclass(frozen=True)
class TensorInfo(TensorShape):
    """A tensor and where it lies: ``file`` and the absolute byte offsets ``start`` and ``stop`` in it."""

    file: Path
    start: int
    stop: int


class HeaderFault(Exception):  # noqa: N818 - it becomes an IntakeError once the file is known
    """What is wrong with a header, before the file's name is added."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, in the order of their data.

    Raises IntakeError for a file that is missing, not regular, or in any way not the format: see
    :func:`parse_header`.
    """
    with open_regular(path) as stream:
        return parse_header(stream, path)


def open_regular(path: Path) -> BinaryIO:
    """A regular file opened for reading, unbuffered; raises IntakeError for anything else (a pipe, say)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise IntakeError(f"cannot be opened: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntakeError("is not a regular file", where=str(path))
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123 - a descriptor has no path


def parse_header(stream: BinaryIO, path: Path) -> dict[str, TensorInfo]:
    """Reads the header from the start of an open file; ``path`` is only recorded and named in errors.

    Raises IntakeError when the file is empty or cut short, the length prefix or the JSON is malformed or over
    its cap, a key occurs twice, a name is empty, overlong, not printable or a path that climbs, a dtype is
    unknown, a shape is not whole and non-negative, offsets do not match dtype and shape, or the tensors do
    not cover the data exactly, without overlap, to the file's last byte.
    """
    size = os.fstat(stream.fileno()).st_size
    try:
        header, data_start = read_json(stream, size)
        entries = [parse_entry(name, value, data_start, path) for name, value in header.items()]
        entries.sort(key=lambda info: (info.start, info.stop))
        check_cover(entries, data_start, size)
    except HeaderFault as fault:
        raise IntakeError(
            f"not a usable safetensors file: {fault}", where=str(path), fix="copy or download the file again"
        ) from None
    return {info.name: info for info in entries}


def read_json(stream: BinaryIO, size: int) -> tuple[dict[str, object], int]:
    """The header's entries without `__metadata__`, and the offset at which the data starts."""
    if size == 0:
        raise HeaderFault("it is empty")
    if size < PREFIX_BYTES:
        raise HeaderFault(f"it has {size} bytes, fewer than the 8 of the length prefix")
    length = int.from_bytes(read_exactly(stream, PREFIX_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderFault(f"its header claims {length:,} bytes, over the limit of {MAX_HEADER_BYTES:,}")
    if PREFIX_BYTES + length > size:
        raise HeaderFault(f"its header claims {length:,} bytes, but the file has {size:,}: it is cut short")
    raw = read_exactly(stream, length)
    if not raw.startswith(b"{"):
        raise HeaderFault("its header does not begin with '{'")
    if raw.count(b"{") > MAX_TENSORS + 2:  # before it is parsed: objects cost much more memory than text
        raise HeaderFault(f"its header has more entries than the limit of {MAX_TENSORS:,} tensors")
    try:
        header = parse_object(raw, MAX_VALUES)
    except ValueError as error:
        raise HeaderFault(f"its header {error}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderFault("its __metadata__ is not a mapping of text to text")
    return header, PREFIX_BYTES + length


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """``count`` bytes of an unbuffered file, which may give fewer at a time."""
    parts: list[bytes] = []
    while count:
        part = stream.read(count)
        if not part:
            raise HeaderFault("it is cut short")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def parse_entry(name: str, value: object, data_start: int, path: Path) -> TensorInfo:
    """One tensor's entry, checked by itself."""
    check_name(name)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise HeaderFault(f"{name!r} is not an entry of dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise HeaderFault(f"{name!r} has the unknown dtype {dtype!r}")
    if not is_naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise HeaderFault(f"{name!r} has the impossible shape {str(shape)[:80]}")
    if not is_naturals(offsets) or len(offsets) != 2:
        raise HeaderFault(f"{name!r} has the impossible offsets {str(offsets)[:80]}")
    start, stop = offsets
    info = TensorInfo(name, dtype, tuple(shape), path, data_start + start, data_start + stop)
    try:
        expected = info.nbytes
    except ValueError as error:
        raise HeaderFault(f"{name!r}: {error}") from None
    if stop - start != expected:
        raise HeaderFault(
            f"{name!r} is {dtype} {list(shape)}, {expected:,} bytes, but its offsets span {stop - start:,}"
        )
    return info


def check_name(name: str) -> None:
    """Names reach terminals, reports and other programs' file names, so only plain ones pass."""
    if not name or len(name) > MAX_NAME_CHARACTERS:
        raise HeaderFault(f"a tensor's name has {len(name)} characters, not 1 to {MAX_NAME_CHARACTERS}")
    if not name.isprintable() or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise HeaderFault(f"a tensor is called {name!r}, which is not a plain name")


def is_naturals(value: object) -> bool:
    """Whether it is a list of whole numbers from 0 to 2^63 − 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def check_cover(entries: list[TensorInfo], data_start: int, size: int) -> None:
    """The tensors, sorted by offset, must cover the data exactly once, to the file's last byte."""
    position = data_start
    for info in entries:
        if info.start != position:
            fault = "overlaps the tensor before it" if info.start < position else "leaves a hole before it"
            raise HeaderFault(f"{info.name!r} {fault}")
        position = info.stop
    if position > size:
        raise HeaderFault(f"its tensors need {position:,} bytes, but the file has {size:,}: it is cut short")
    if position < size:
        raise HeaderFault(f"{size - position:,} bytes follow the last tensor")
