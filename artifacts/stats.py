"""The stat cache: a file whose size, times and inode are as they were has the SHA-256 that it had.

Entries live beside the trees, never in them, and are only a memory: a lost or torn one costs a hash, nothing
else. What it cannot see (bytes that changed on the disk itself) is `ingot verify`'s to find.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING

from . import faults
from .clock import mark
from .digest import digest_bytes, digest_stream
from .errors import DataError
from .files import unique_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Signature = tuple[int, int, int, int]

# A file changed within one tick of its file system's clock keeps its times; FAT's tick, the longest, is 2 s.
CLOCK_TICK_NS = 2_000_000_000


def signature(status: os.stat_result) -> Signature:
    """(size in bytes, mtime_ns, ctime_ns, inode)."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def load_tree(path: Path) -> dict[str, Signature]:
    """The signatures remembered for a tree, by payload path; empty when there are none or they are torn."""
    try:
        value = json.loads(path.read_bytes())
        return {str(name): _parse(entry) for name, entry in value.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # a memory that cannot be read is no memory: the caller hashes


def remember_tree(path: Path, signatures: Mapping[str, Signature]) -> None:
    """Remembers the signatures of a tree's files; what cannot be remembered is hashed again next time."""
    with contextlib.suppress(OSError):  # a read-only or full disk costs time here, not correctness
        _save(path, {name: list(entry) for name, entry in signatures.items()})


def touch(path: Path, time_ns: int) -> None:
    """Notes that an entry was used at ``time_ns``: its mtime tells gc what to remove first."""
    with contextlib.suppress(OSError):  # a read-only store cannot remember uses, and is never collected
        mark(path, time_ns)


def digest_of(source: Path, folder: Path) -> str:
    """The SHA-256 of a file anywhere, from the cache in ``folder`` when the file has not changed since.

    Raises DataError when it cannot be read, is no regular file, or changes meanwhile.
    """
    try:
        return _digest_of(source.resolve(strict=True), folder)
    except OSError as error:
        raise DataError(f"{source.name} cannot be read: {error.strerror}", where=str(source)) from error


def _digest_of(source: Path, folder: Path) -> str:
    entry = folder / f"{digest_bytes(os.fsencode(source))}.json"
    began = faults.time_ns()
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{source.name} is not a regular file", where=str(source))
        known = _load_file(entry)
        if known is not None and known[0] == signature(status):
            touch(entry, faults.time_ns())
            return known[1]
        sha256 = digest_stream(stream)
        if signature(os.fstat(descriptor)) != signature(status):
            raise DataError(f"{source.name} changed while it was read", where=str(source), fix="run again")
    if max(status.st_mtime_ns, status.st_ctime_ns) + CLOCK_TICK_NS < began:
        with contextlib.suppress(OSError):  # a read-only store forgets: the next run hashes again
            _save(entry, {"signature": list(signature(status)), "sha256": sha256})
    return sha256


def _load_file(path: Path) -> tuple[Signature, str] | None:
    try:
        value = json.loads(path.read_bytes())
        return _parse(value["signature"]), str(value["sha256"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _save(path: Path, value: object) -> None:
    temporary = path.with_name(f".{unique_name()}")
    try:
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _parse(entry: object) -> Signature:
    if not isinstance(entry, list) or len(entry) != 4 or not all(type(number) is int for number in entry):
        raise TypeError("a signature is four whole numbers")
    size, mtime_ns, ctime_ns, inode = entry
    return size, mtime_ns, ctime_ns, inode
