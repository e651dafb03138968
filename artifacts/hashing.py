"""Writing and copying files with their SHA-256 taken in the same pass, in about the time of a plain copy."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import queue
import stat
import threading
from typing import TYPE_CHECKING

from .digest import digest_file
from .errors import DataError
from .files import storage, write_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from _typeshed import ReadableBuffer

BLOCK_BYTES = 1 << 20
FICLONE = 0x40049409  # linux/fs.h: share the extents of another file
NOT_CLONABLE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)


class BackgroundDigest:
    """A SHA-256 that is fed in order by a helper thread; hashlib releases the interpreter while it works."""

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self._todo: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._outstanding = 0

    def submit(self, block: memoryview) -> None:
        """Takes ``block`` next; its bytes must not change until :meth:`drain` returns."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="ingot-sha256", daemon=True)
            self._thread.start()
        self._outstanding += 1
        self._todo.put(block)

    def drain(self) -> None:
        """Waits until all submitted blocks are hashed."""
        while self._outstanding:
            self._done.get()
            self._outstanding -= 1

    def finish(self, rest: memoryview) -> str:
        """The digest of all submitted blocks and ``rest``; ends the helper thread."""
        self.drain()
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join()
            self._thread = None
        self._state.update(rest)
        return self._state.hexdigest()

    def _work(self) -> None:
        while (block := self._todo.get()) is not None:
            self._state.update(block)
            self._done.put(None)


class HashingFile(io.BufferedIOBase):
    """A new binary file, written front to back, whose ``sha256`` and ``size`` (bytes) are known once closed.

    A block is hashed by a helper thread while this one writes it. Closing waits for the disk. A block left by
    an exception inside ``with`` removes the file. Raises StoreError when the disk is full or read-only.
    """

    def __init__(self, path: Path, on_close: Callable[[HashingFile], None] | None = None) -> None:
        super().__init__()
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._on_close = on_close
        self._hash = BackgroundDigest()
        self._buffers = (memoryview(bytearray(BLOCK_BYTES)), memoryview(bytearray(BLOCK_BYTES)))
        self._current = 0
        self._filled = 0
        self._descriptor = -1
        with storage(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def writable(self) -> bool:
        """True: this file is for writing alone."""
        return True

    def fileno(self) -> int:
        """Refused: bytes written past this object would not be hashed."""
        raise io.UnsupportedOperation("a hashing file has no descriptor to share")

    def tell(self) -> int:
        """The bytes written so far."""
        return self.size + self._filled

    def write(self, data: ReadableBuffer, /) -> int:
        """Appends ``data``; it may be changed as soon as this returns."""
        if self._descriptor < 0:
            raise ValueError(f"write to a closed file: {self.path.name}")
        view = memoryview(data).cast("B")
        count = len(view)
        if count >= BLOCK_BYTES:
            self._write_buffer()
            self._emit(view)
            self._hash.drain()
            return count
        while view:
            taken = min(len(view), BLOCK_BYTES - self._filled)
            self._buffers[self._current][self._filled : self._filled + taken] = view[:taken]
            self._advance(taken)
            view = view[taken:]
        return count

    def write_from(self, descriptor: int) -> None:
        """Appends what remains in an open file."""
        while count := os.readv(descriptor, [self._buffers[self._current][self._filled :]]):
            self._advance(count)

    def clone_from(self, descriptor: int) -> bool:
        """Makes this new file share the extents of another (reflink); False where that cannot be done."""
        with storage(self.path):
            try:
                fcntl.ioctl(self._descriptor, FICLONE, descriptor)
            except OSError as error:
                if error.errno in NOT_CLONABLE:
                    return False
                raise
        self.size = os.fstat(self._descriptor).st_size
        self.sha256 = digest_file(self.path)
        return True

    def close(self) -> None:
        """Writes what is buffered, waits for the disk, and sets ``sha256``; again is fine."""
        if self._descriptor < 0:
            return
        try:
            with storage(self.path):
                if not self.sha256:
                    rest = self._buffers[self._current][: self._filled]
                    write_all(self._descriptor, rest)
                    self.size += self._filled
                    self.sha256 = self._hash.finish(rest)
                os.fsync(self._descriptor)
                self._check_length()
        except BaseException:
            self._discard()
            raise
        self._release()
        super().close()
        if self._on_close is not None:
            self._on_close(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file, or removes it when the block failed."""
        if kind is None:
            self.close()
        elif self._descriptor >= 0:
            self._discard()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            self._discard()

    def _check_length(self) -> None:
        arrived = os.fstat(self._descriptor).st_size
        if arrived != self.size:
            raise OSError(errno.EIO, f"{arrived} bytes arrived of {self.size}")

    def _advance(self, count: int) -> None:
        self._filled += count
        if self._filled == BLOCK_BYTES:
            self._write_buffer()

    def _write_buffer(self) -> None:
        if self._filled:
            block = self._buffers[self._current][: self._filled]
            self._filled = 0
            self._current ^= 1
            self._emit(block)

    def _emit(self, block: memoryview) -> None:
        # Draining first bounds the queue to one block, so that the other buffer is free to fill.
        self._hash.drain()
        self._hash.submit(block)
        with storage(self.path):
            write_all(self._descriptor, block)
        self.size += len(block)

    def _discard(self) -> None:
        self._hash.finish(memoryview(b""))
        self._release()
        self.path.unlink(missing_ok=True)
        super().close()

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def copy_file(source: Path, target: HashingFile) -> None:
    """Fills ``target``, a new hashing file, with the bytes of a regular file; symlinks are followed.

    Raises DataError when ``source`` cannot be read, is not a regular file, or changes meanwhile.
    """
    try:
        _copy(source, target)
    except OSError as error:
        raise DataError(f"{source.name} cannot be read: {error.strerror}", where=str(source)) from error


def _copy(source: Path, target: HashingFile) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise DataError(f"{source.name} is not a regular file", where=str(source))
        if not target.clone_from(descriptor):
            with contextlib.suppress(OSError):  # advice alone: some file systems take none
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            target.write_from(descriptor)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError(f"{source.name} changed while it was copied", where=str(source), fix="run again")
    finally:
        os.close(descriptor)
