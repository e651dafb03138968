"""The zip file that torch.save writes, read strictly: which records it has, and where their bytes lie.

Nothing is unpacked, so nothing can be unpacked to a wrong place or to a wrong size: torch stores its records
uncompressed and one after another, and a file that does anything else is not torch's. The format: PKWARE's
APPNOTE.TXT 6.3, sections 4.3 and 4.5.3 (zip64).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ...artifacts.tensor_header import HeaderFault, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"PK\x03\x04"
MAX_DIRECTORY_BYTES = 16 << 20
MAX_RECORDS = 100_000
BLOCK_BYTES = 1 << 20
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
FULL_16, FULL_32 = 0xFFFF, 0xFFFF_FFFF
# Flags: bit 3, sizes follow the data; bit 11, the name is UTF-8.
KNOWN_FLAGS = 1 << 3 | 1 << 11
# After its data a record may have its CRC and two sizes again, behind a signature.
MOST_DESCRIPTOR_BYTES = 24
RECORD_NAME = re.compile(
    r"[^/\\\0]{1,200}/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/[0-9]{1,9})"
)


@dataclass(frozen=True)
class Record:
    """One record: the bytes from ``start`` to ``stop`` of the file, and their CRC-32."""

    start: int
    stop: int
    crc: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.stop - self.start


def read_records(stream: BinaryIO, size: int) -> dict[str, Record]:
    """The records of a torch archive of ``size`` bytes by name, without the folder that all are in.

    Raises HeaderFault for a file that is cut short, has records that are compressed, encrypted, overlapping,
    named twice, named differently in its two directories, or not of those that torch writes.
    """
    start, length, count = directory_extent(stream, size)
    entries = sorted(read_entries(read_at(stream, start, length), count))
    records: dict[str, Record] = {}
    folder = entries[0][1].partition("/")[0] if entries else ""
    end = 0
    for offset, name, length, crc, flags in entries:
        if not end <= offset <= end + MOST_DESCRIPTOR_BYTES:
            fault = "overlaps the record before it" if offset < end else "leaves a gap before it"
            raise HeaderFault(f"the record {name!r} {fault}")
        own_folder, _, rest = name.partition("/")
        if own_folder != folder or rest in records:
            raise HeaderFault(f"the record {name!r} is in another folder than the rest, or there twice")
        begin = data_start(stream, offset, name, flags)
        end = begin + length
        records[rest] = Record(begin, end, crc)
    if not end <= start <= end + MOST_DESCRIPTOR_BYTES:
        raise HeaderFault("its records do not end where its directory begins: it is damaged, or two files")
    return records


def directory_extent(stream: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the zip directory starts, its bytes and its number of entries."""
    if size < END.size:
        raise HeaderFault("it is cut short")
    magic, *disks, count, length, start, comment = END.unpack(read_at(stream, size - END.size, END.size))
    if magic != b"PK\x05\x06" or comment:
        raise HeaderFault("it does not end as a zip file does: it is cut short, or something follows it")
    end = size - END.size
    wide = FULL_16 in (count, *disks) or FULL_32 in (length, start)
    if wide or start + length != end:  # torch writes a zip64 directory whether it needs one or not
        magic, _, place, _ = LOCATOR64.unpack(read_at(stream, end - LOCATOR64.size, LOCATOR64.size))
        end -= LOCATOR64.size + END64.size
        if magic != b"PK\x06\x07" or place != end:
            raise HeaderFault("its directory does not reach to its end: it is cut short, or two files in one")
        record = END64.unpack(read_at(stream, place, END64.size))
        if record[0] != b"PK\x06\x06":
            raise HeaderFault("its zip64 directory is not one")
        count, length, start = record[7:]
    if start + length != end:
        raise HeaderFault("its directory does not reach to its end: it is cut short, or two files in one")
    if count > MAX_RECORDS or length > MAX_DIRECTORY_BYTES:
        raise HeaderFault(f"its directory has {count:,} records in {length:,} bytes, over the limits")
    return start, length, count


def read_entries(directory: bytes, count: int) -> Iterator[tuple[int, str, int, int, int]]:
    """Offset, name, size in bytes, CRC-32 and flags of each record, as the zip directory has them."""
    position = 0
    for _ in range(count):
        if position + ENTRY.size > len(directory):
            raise HeaderFault("its directory is cut short")
        fields = ENTRY.unpack_from(directory, position)
        magic, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
        packed, size, name_length, extra_length, comment_length = fields[8:13]
        offset = fields[16]
        position += ENTRY.size
        raw_name = directory[position : position + name_length]
        extra = directory[position + name_length : position + name_length + extra_length]
        position += name_length + extra_length + comment_length
        name = raw_name.decode("utf-8", "replace")
        if magic != b"PK\x01\x02" or position > len(directory):
            raise HeaderFault("its directory is damaged")
        if not RECORD_NAME.fullmatch(name) or not name.isprintable() or name.startswith(".."):
            raise HeaderFault(f"its record {name[:80]!r} is none of those that torch saves weights in")
        if method or flags & ~KNOWN_FLAGS:
            raise HeaderFault(f"the record {name!r} is compressed or encrypted, which torch never does")
        size, packed, offset = widened(extra, size, packed, offset)
        if packed != size:
            raise HeaderFault(f"the record {name!r} has two sizes, {packed:,} and {size:,} bytes")
        yield offset, name, size, crc, flags
    if position != len(directory):
        raise HeaderFault("its directory has more than its records")


def widened(extra: bytes, *values: int) -> list[int]:
    """``values`` with those that 32 bits could not hold taken from a zip64 extra field, in its order."""
    wide = iter(zip64_values(extra))
    found = [next(wide, None) if value == FULL_32 else value for value in values]
    if None in found:
        raise HeaderFault("a record has no zip64 sizes where it needs them")
    return [value for value in found if value is not None]


def zip64_values(extra: bytes) -> list[int]:
    """The 64-bit numbers of the extra field 1, where there is one."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if kind == 1:
            return [int.from_bytes(body[at : at + 8], "little") for at in range(0, len(body) - 7, 8)]
        position += 4 + length
    return []


def data_start(stream: BinaryIO, offset: int, name: str, flags: int) -> int:
    """Where a record's data begins; its local header must say of it what the directory says."""
    magic, _, local_flags, method, _, _, _, _, _, name_length, extra_length = LOCAL.unpack(
        read_at(stream, offset, LOCAL.size)
    )
    local_name = read_at(stream, offset + LOCAL.size, name_length).decode("utf-8", "replace")
    if magic != MAGIC or local_name != name:
        raise HeaderFault(f"the record {name!r} is called {local_name[:80]!r} where its data is")
    if (local_flags, method) != (flags, 0):
        raise HeaderFault(f"the record {name!r} is stored in another way than the directory says")
    return offset + LOCAL.size + int(name_length) + int(extra_length)


def check_crc(stream: BinaryIO, name: str, record: Record) -> None:
    """Raises HeaderFault when a record's bytes do not have the CRC-32 that the directory gives."""
    crc, position = 0, record.start
    while position < record.stop:
        block = read_at(stream, position, min(BLOCK_BYTES, record.stop - position))
        crc = zlib.crc32(block, crc)
        position += len(block)
    if crc != record.crc:
        raise HeaderFault(f"its record {name!r} is damaged: its CRC-32 is not the one in the directory")


def read_at(stream: BinaryIO, offset: int, count: int) -> bytes:
    """``count`` bytes at an offset; raises HeaderFault where the file has fewer."""
    if not 0 <= offset < 1 << 62:
        raise HeaderFault("it is cut short")
    stream.seek(offset)
    return read_exactly(stream, count)
