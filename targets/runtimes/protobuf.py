"""Protobuf messages read where they lie, field by field, without the library that would copy them whole.

The wire format: https://protobuf.dev/programming-guides/encoding. A message is fields in any order, each a
tag (number and wire type) and a value; what is not asked for is stepped over, however large.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_VARINT_BYTES = 10
# A graph of a model with a hundred layers has about a hundred thousand; a file of 2 GiB could have a billion.
MOST_FIELDS = 2_000_000


class WireFault(Exception):  # noqa: N818 - it becomes an InputError once the file is known
    """What is wrong with a message, before its file's name is added."""


@dataclass(frozen=True)
class Field:
    """One field: its number, and its value: a whole number, or the bytes from ``start`` to ``stop``."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


@dataclass
class Message:
    """A file's bytes, mapped, and how many of its fields were looked at so far."""

    data: mmap.mmap | bytes
    seen: int = field(default=0)

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message between two offsets, in order.

        Raises WireFault for a field that is malformed or reaches past the end, and for more of them than any
        model has.
        """
        position = start
        while position < stop:
            self.seen += 1
            if self.seen > MOST_FIELDS:
                raise WireFault(f"it has more than {MOST_FIELDS:,} fields")
            tag, position = self._varint(position, stop)
            number, wire = tag >> 3, tag & 7
            value, begin = 0, position
            if wire == VARINT:
                value, position = self._varint(position, stop)
            elif wire == BYTES:
                length, begin = self._varint(position, stop)
                position = begin + length
            elif wire in (FIXED64, FIXED32):
                position += 8 if wire == FIXED64 else 4
            else:
                raise WireFault(f"a field has the wire type {wire}, which nobody writes")
            if position > stop or number == 0:
                raise WireFault("a field reaches past the end: the file is cut short or damaged")
            yield Field(number, wire, value, begin, position)

    def text(self, found: Field) -> str:
        """A field's bytes as text; raises WireFault when it is none."""
        if found.wire != BYTES:
            raise WireFault(f"the field {found.number} is not text")
        try:
            return self.data[found.start : found.stop].decode("utf-8")
        except UnicodeDecodeError:
            raise WireFault(f"the text of a field {found.number} is not UTF-8") from None

    def numbers(self, found: Field) -> list[int]:
        """A repeated whole number: one, or several packed into one field."""
        if found.wire == VARINT:
            return [found.value]
        values, position = [], found.start
        while position < found.stop:
            value, position = self._varint(position, found.stop)
            values.append(value)
        return values

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 7 * MOST_VARINT_BYTES, 7):
            if position >= stop:
                raise WireFault("a field reaches past the end: the file is cut short or damaged")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise WireFault("a number has more bytes than any number")
