"""What is checked of an ONNX file before a runtime opens it: a delivery may be anybody's.

A graph may name other files for its weights, and a checker that trusts those names reads whatever file they
lead to: onnx 1.23's own accepts tensors that end past their file, or are longer than what they name. Here a
name is one of the same directory, a plain file without a second link to it, and every tensor has as many
bytes as its shape takes. Only operators that onnxruntime itself brings are let through, in graphs that are
sorted, which shuts out circles and recursion. The fields: onnx.proto (ONNX IR 3 to 13).
"""

from __future__ import annotations

import math
import mmap
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from .protobuf import BYTES, VARINT, Field, Message, WireFault

if TYPE_CHECKING:
    from collections.abc import Collection

# A protobuf message ends below 2^31 bytes.
MOST_BYTES = (1 << 31) - 1
MOST_DEPTH = 8
# What onnxruntime/core/flatbuffers/schema/ort.fbs declares as its file identifier.
ORT_IDENTIFIER = b"ORTM"
KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")
EXTERNAL_KEYS = ("location", "offset", "length", "checksum")
# Bits of an element by TensorProto.DataType; a STRING (8) has none.
ELEMENT_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128,
    16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
SHOWN = 80
FIX = "build it again, or ask where it is from"


def check_onnx_file(path: Path) -> None:
    """Raises InputError unless an ONNX file may be opened: see the module.

    It takes about a microsecond a field, and reads no weight.
    """
    _check_plain(path)
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Check(path.parent, Message(data)).model(0, len(data))
    except WireFault as fault:
        what = f"{path.name} is not a graph that may be run: {fault}"
        raise InputError(what, where=str(path), fix=FIX) from None


def check_ort_file(path: Path) -> None:
    """Raises InputError unless a file in onnxruntime's own format may be opened.

    It is one FlatBuffer, which onnxruntime verifies as it opens it, and which names no other file: what is
    left to check is that it is a plain file of that identifier.
    """
    _check_plain(path)
    with path.open("rb") as stream:
        identifier = stream.read(8)[4:]
    if identifier != ORT_IDENTIFIER:
        raise InputError(f"{path.name} is not in the format of onnxruntime", where=str(path), fix=FIX)


def _check_plain(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}", where=str(path)) from None
    if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MOST_BYTES:
        what = f"{path.name} is no file of 1 byte to 2 GiB, which a graph is (it has {status.st_size:,})"
        raise InputError(what, where=str(path), fix=FIX)


@dataclass
class _Tensor:
    """What the fields of a TensorProto say, gathered."""

    name: str = ""
    dtype: int = 0
    shape: list[int] = field(default_factory=list)
    raw_bytes: int | None = None
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes that its elements take."""
        if self.dtype not in ELEMENT_BITS or any(size >= 1 << 63 for size in self.shape):
            raise WireFault(f"the tensor {self.name[:SHOWN]!r} has no element type or shape that takes bytes")
        return -(-math.prod(self.shape) * ELEMENT_BITS[self.dtype] // 8)


class _Check:
    """Walks one model; every method raises WireFault for what may not be."""

    def __init__(self, directory: Path, message: Message) -> None:
        self._directory = directory
        self._message = message
        self._sizes: dict[str, int] = {}

    def model(self, start: int, stop: int) -> None:
        graphs = 0
        for part in self._message.fields(start, stop):
            if part.number == 7:
                graphs += 1
                self._graph(self._inner(part), (), 0)
            elif part.number == 8:
                for entry in self._message.fields(*self._inner(part)):
                    if entry.number == 1:
                        self._domain(self._message.text(entry))
            elif part.number in (20, 25):
                what = "training steps" if part.number == 20 else "functions of its own"
                raise WireFault(f"it has {what}, which no model that Ingot exports has")
        if graphs != 1:
            raise WireFault(f"it has {graphs} graphs, not one")

    def _graph(self, span: tuple[int, int], outer: tuple[Collection[str], ...], depth: int) -> None:
        """One graph. outer: names that the graphs around it have made so far."""
        if depth > MOST_DEPTH:
            raise WireFault(f"graphs are nested deeper than {MOST_DEPTH}")
        made: set[str] = set()
        nodes = []
        for part in self._message.fields(*span):
            if part.number == 1:
                nodes.append(part)
            elif part.number == 5:
                made.add(self._tensor(part))
            elif part.number == 11:
                made.add(self._name(part))
            elif part.number == 15:
                made.update(self._sparse(part))
        for node in nodes:
            self._node(node, made, outer, depth)

    def _node(self, part: Field, made: set[str], outer: tuple[Collection[str], ...], depth: int) -> None:
        inputs, outputs, attributes = [], [], []
        for entry in self._message.fields(*self._inner(part)):
            if entry.number == 1:
                inputs.append(self._message.text(entry))
            elif entry.number == 2:
                outputs.append(self._message.text(entry))
            elif entry.number == 5:
                attributes.append(entry)
            elif entry.number == 7:
                self._domain(self._message.text(entry))
        scopes = (*outer, made)
        for name in filter(None, inputs):
            if not any(name in scope for scope in scopes):
                shown = name[:SHOWN]
                raise WireFault(f"a node takes {shown!r} before anything makes it: a circle, or unsorted")
        for attribute in attributes:
            self._attribute(attribute, scopes, depth)
        for name in filter(None, outputs):
            if name in made:
                raise WireFault(f"{name[:SHOWN]!r} is made twice")
            made.add(name)

    def _attribute(self, part: Field, scopes: tuple[Collection[str], ...], depth: int) -> None:
        """Tensors and graphs that are attributes; of those that may be there once, one is enough."""
        single = set()
        for entry in self._message.fields(*self._inner(part)):
            if entry.number in (5, 6, 22):
                if entry.number in single:
                    raise WireFault("an attribute has two values")
                single.add(entry.number)
            if entry.number in (5, 10):
                self._tensor(entry)
            elif entry.number in (6, 11):
                self._graph(self._inner(entry), scopes, depth + 1)
            elif entry.number in (22, 23):
                self._sparse(entry)

    def _sparse(self, part: Field) -> list[str]:
        """The names of a sparse tensor's values and indices, both checked."""
        entries = self._message.fields(*self._inner(part))
        return [self._tensor(entry) for entry in entries if entry.number in (1, 2)]

    def _tensor(self, part: Field) -> str:
        """The name of a tensor whose bytes are as many as its shape takes, wherever they are."""
        tensor = _Tensor()
        for entry in self._message.fields(*self._inner(part)):
            if entry.number == 1:
                tensor.shape += self._message.numbers(entry)
            elif entry.number == 2:
                tensor.dtype = entry.value
            elif entry.number == 8:
                tensor.name = self._message.text(entry)
            elif entry.number == 9:
                tensor.raw_bytes = entry.stop - entry.start
            elif entry.number == 13:
                self._entry(entry, tensor)
            elif entry.number == 14:
                tensor.is_external = tensor.is_external or entry.wire != VARINT or entry.value != 0
        if tensor.is_external or tensor.external:
            self._external(tensor)
        elif tensor.raw_bytes is not None and tensor.raw_bytes != tensor.nbytes:
            raise WireFault(
                f"the tensor {tensor.name[:SHOWN]!r} has {tensor.raw_bytes:,} bytes, "
                f"but its shape takes {tensor.nbytes:,}"
            )
        return tensor.name

    def _entry(self, part: Field, tensor: _Tensor) -> None:
        """One key and value of a tensor's external data."""
        entries = self._message.fields(*self._inner(part))
        texts = {entry.number: self._message.text(entry) for entry in entries}
        key, value = texts.get(1, ""), texts.get(2, "")
        if key not in EXTERNAL_KEYS or key in tensor.external:
            raise WireFault(f"external data says {key[:SHOWN]!r} twice, or what nobody knows")
        tensor.external[key] = value

    def _external(self, tensor: _Tensor) -> None:
        name = tensor.name[:SHOWN]
        if "location" not in tensor.external:
            raise WireFault(f"the tensor {name!r} has its data elsewhere, but does not say where")
        size = self._size(tensor.external["location"])
        offset = _natural(tensor.external.get("offset", "0"), f"the offset of {name!r}")
        length = _natural(tensor.external.get("length", str(tensor.nbytes)), f"the length of {name!r}")
        if length != tensor.nbytes:
            raise WireFault(
                f"the tensor {name!r} takes {tensor.nbytes:,} bytes by its shape, but names {length:,}"
            )
        if offset + length > size:
            raise WireFault(
                f"the tensor {name!r} ends at byte {offset + length:,} of "
                f"{tensor.external['location']}, which has {size:,}"
            )

    def _size(self, location: str) -> int:
        """The bytes of a data file, which must be a plain one of the model's own directory."""
        if location not in self._sizes:
            shown = location[:SHOWN]
            plain = location.isprintable() and location == Path(location).name and "\\" not in location
            if not plain:
                raise WireFault(f"weights are in {shown!r}, which is not the name of a file beside it")
            try:
                status = (self._directory / location).lstat()
            except OSError as error:
                raise WireFault(f"its file of weights, {shown!r}, cannot be read: {error.strerror}") from None
            if not stat.S_ISREG(status.st_mode):
                raise WireFault(f"its file of weights, {shown!r}, is a symlink or no regular file")
            if status.st_nlink != 1:
                raise WireFault(f"its file of weights, {shown!r}, has {status.st_nlink} hard links")
            self._sizes[location] = status.st_size
        return self._sizes[location]

    def _name(self, part: Field) -> str:
        """The name in a graph's description of an input."""
        entries = self._message.fields(*self._inner(part))
        names = [self._message.text(entry) for entry in entries if entry.number == 1]
        return names[-1] if names else ""

    def _inner(self, part: Field) -> tuple[int, int]:
        """Where the message in a field lies."""
        if part.wire != BYTES:
            raise WireFault(f"the field {part.number} is no message")
        return part.start, part.stop

    @staticmethod
    def _domain(name: str) -> None:
        if name not in KNOWN_DOMAINS:
            raise WireFault(f"it uses operators of {name[:SHOWN]!r}, which onnxruntime does not bring itself")


def _natural(text: str, what: str) -> int:
    """A whole number as external data has it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise WireFault(f"{what} is {text[:SHOWN]!r}, not a whole number")
    return int(text)
