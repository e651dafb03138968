"""Advisory locks on files (flock): a lock dies with its holder, so none is ever stale.

They save double work and tell the living from the dead; the store's correctness rests on renames alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from .errors import StoreError
from .files import READ_ONLY

Kind = Callable[[Path], AbstractContextManager[None]]


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` alone, waiting for others."""
    descriptor = _acquire(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` together with other sharers, waiting for an exclusive holder."""
    descriptor = _acquire(path, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` alone; raises StoreError at once when anybody else holds it."""
    descriptor = try_take(path)
    if descriptor is None:
        raise StoreError(
            "a run is using the store", where=str(path.parent.parent), fix="wait until it has ended"
        )
    try:
        yield
    finally:
        os.close(descriptor)


def take(path: Path) -> int:
    """Holds ``path`` alone until the returned descriptor is closed, waiting for others."""
    return _acquire(path, fcntl.LOCK_EX)


def try_take(path: Path) -> int | None:
    """Like :func:`take`, or None at once when somebody holds it."""
    try:
        return _acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def remove_idle(path: Path) -> None:
    """Deletes a lock file that nobody holds."""
    descriptor = try_take(path)
    if descriptor is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process holds ``path``; a missing file is not held."""
    if not path.exists():
        return False
    descriptor = try_take(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _acquire(path: Path, operation: int) -> int:
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, operation)
            if _is_same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever held it has removed the file: a lock on a nameless file locks nobody out.
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in READ_ONLY or not path.exists():
            raise
        # A lock file of another user, or on a read-only disk, can be held all the same.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_ino, held.st_dev) == (named.st_ino, named.st_dev)
