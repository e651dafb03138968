"""Small durable file operations: atomic writes, syncing, sealing, removal, and OSErrors put into words."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import stat
import unicodedata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from . import faults
from .errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
LONGEST_NAME_BYTES = 255
LONGEST_PATH_BYTES = 1024


def storage_error(error: OSError, where: Path) -> StoreError:
    """``error`` as a person should read it: what happened, at which path, and the way out."""
    place = str(where)
    if error.errno in NO_SPACE:
        return StoreError(
            "no space left on the disk",
            where=place,
            fix="free space there, shrink the store with `ingot gc --max-size SIZE`, or choose another disk",
        )
    if error.errno in READ_ONLY:
        return StoreError(
            f"cannot write: {os.strerror(error.errno).lower()}",
            where=place,
            fix="choose a writable directory (--store or INGOT_STORE; --out for deliveries)",
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StoreError(
            "something else is in the way", where=place, fix="move it, or choose another directory"
        )
    if error.errno == errno.EFBIG:
        return StoreError("a file is larger than the file system or its limits allow", where=place)
    return StoreError(f"the disk refused: {error.strerror or error}", where=place)


@contextlib.contextmanager
def storage(where: Path) -> Iterator[None]:
    """Turns OSErrors of the block into StoreErrors about ``where``."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, where) from error


@functools.lru_cache(maxsize=4096)  # the same few names stand in every artifact
def check_relative(name: str) -> str:
    """``name`` when it can be a payload file on every file system; raises StoreError otherwise.

    It must be a relative POSIX path in normal form (no `..`, no empty part), in Unicode NFC, without control
    characters, backslashes or parts over 255 bytes.
    """
    parts = name.split("/")
    reason = None
    if name != str(PurePosixPath(name)) or name.startswith("/") or {"", ".", ".."} & set(parts):
        reason = "is not a plain relative path"
    elif "\\" in name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        reason = "holds a backslash or a control character"
    elif unicodedata.normalize("NFC", name) != name:
        reason = "is not in Unicode normal form C"
    elif (
        max(len(part.encode()) for part in parts) > LONGEST_NAME_BYTES
        or len(name.encode()) > LONGEST_PATH_BYTES
    ):
        reason = "is too long"
    if reason:
        raise StoreError(f"the file name {name!r} {reason}", fix="give the artifact's file another name")
    return name


def unique_name() -> str:
    """A name no other process will take: 16 random hexadecimal digits."""
    return secrets.token_hex(8)


def sync_file(path: Path) -> None:
    """Waits until a file's bytes are on the disk."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Waits until a directory's entries are on the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        faults.sync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Writes every byte of ``data``, however short single writes fall."""
    view = memoryview(data).cast("B")
    while view:
        view = view[faults.write(descriptor, view) :]


def write_file(path: Path, data: bytes) -> None:
    """A new file that holds ``data``, on the disk when this returns; raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
        faults.sync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Writes a file beside its place and renames it there, so that nobody reads half of it."""
    beside = path.with_name(f".{path.name}.{unique_name()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_halves(path: Path) -> None:
    """Deletes what killed processes left of a file that :func:`write_whole` writes.

    The caller sees to it that nobody is writing it now.
    """
    for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 16}"):
        left.unlink(missing_ok=True)


def seal(root: Path) -> None:
    """Makes everything below ``root`` read-only; ``root`` itself stays writable, for a rename needs that."""
    for path in root.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)


def remove_tree(root: Path) -> None:
    """Deletes a directory and all below it, sealed or not; a missing one is fine. Never follows symlinks."""
    try:
        if not stat.S_ISDIR(root.lstat().st_mode):
            root.unlink()
            return
        root.chmod(0o755)
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(Path(entry.path))
                else:
                    Path(entry.path).unlink(missing_ok=True)
        root.rmdir()
    except FileNotFoundError:
        return  # another process is removing the same garbage


def size_of(root: Path) -> int:
    """The bytes of all files below ``root``; files that vanish meanwhile count nothing."""
    total = 0
    for directory, _, files in os.walk(root):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += Path(directory, name).lstat().st_size
    return total
