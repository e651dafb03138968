"""Writing and copying files with their SHA-256 taken in the same pass, in about the time of a plain copy."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import os
import queue
import stat
import threading
from typing import TYPE_CHECKING

from . import faults
from .digest import digest_file
from .errors import DataError
from .files import storage, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from _typeshed import ReadableBuffer

BLOCK_BYTES = 1 << 20
BLOCKS = 4  # blocks that may wait for the hash: enough to ride out a pause of one thread
SYNC_BYTES = 16 << 20  # how much is written before the disk is asked to start on it
FICLONE = 0x40049409  # linux/fs.h: share the extents of another file
NOT_CLONABLE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)


class Helper:
    """A thread that does small jobs in order; hashing and disk calls release the interpreter meanwhile."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._todo: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._outstanding = 0

    def submit(self, job: Callable[[], object]) -> None:
        """Does ``job`` after those before it; the thread starts with the first one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._outstanding += 1
        self._todo.put(job)

    def wait(self, left: int) -> None:
        """Waits until at most ``left`` jobs are unfinished; raises the OSError of one that failed."""
        while self._outstanding > left:
            error = self._done.get()
            self._outstanding -= 1
            if error is not None:
                raise error

    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return self._outstanding == self._done.qsize()

    def finish(self) -> None:
        """Waits for all jobs and ends the thread; raises the OSError of one that failed."""
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join()
            self._thread = None
        self.wait(0)

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            try:
                job()
            except OSError as error:
                self._done.put(error)
            else:
                self._done.put(None)


class HashingFile(io.BufferedIOBase):
    """A new binary file, written front to back, whose ``sha256`` and ``size`` (bytes) are known once closed.

    A block is hashed by one helper thread while this one writes it and a second asks the disk for what was
    written before. Closing waits for the disk. An exception inside ``with`` removes the file. Raises
    StoreError when the disk is full or read-only.
    """

    _FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL

    def __init__(self, path: Path, on_close: Callable[[HashingFile], None] | None = None) -> None:
        super().__init__()
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._on_close = on_close
        self._state = hashlib.sha256()
        self._hash = Helper("ingot-sha256")
        self._sync = Helper("ingot-sync")
        self._synced = 0
        self._blocks = [memoryview(bytearray(BLOCK_BYTES))]
        self._current = 0
        self._filled = 0
        self._descriptor = -1
        with storage(path):
            self._descriptor = os.open(path, self._FLAGS | os.O_CLOEXEC, 0o644)

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
            self._write_block()
            self._hash.submit(functools.partial(self._state.update, view))
            for start in range(0, count, SYNC_BYTES):
                self._write(view[start : start + SYNC_BYTES])
            self._hash.wait(0)
            return count
        while view:
            taken = min(len(view), BLOCK_BYTES - self._filled)
            self._blocks[self._current][self._filled : self._filled + taken] = view[:taken]
            self._advance(taken)
            view = view[taken:]
        return count

    def write_from(self, descriptor: int) -> None:
        """Appends what remains in an open file."""
        while count := os.readv(descriptor, [self._blocks[self._current][self._filled :]]):
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
                self._finish()
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

    def _advance(self, count: int) -> None:
        self._filled += count
        if self._filled == BLOCK_BYTES:
            self._write_block()

    def _write_block(self) -> None:
        if not self._filled:
            return
        block = self._blocks[self._current][: self._filled]
        self._filled = 0
        self._hash.submit(functools.partial(self._state.update, block))
        self._write(block)
        self._current = (self._current + 1) % BLOCKS
        if self._current == len(self._blocks):
            self._blocks.append(memoryview(bytearray(BLOCK_BYTES)))
        # The block to be filled next is the oldest submitted: with one fewer left it has been hashed.
        self._hash.wait(BLOCKS - 1)

    def _write(self, block: memoryview) -> None:
        with storage(self.path):
            write_all(self._descriptor, block)
            self.size += len(block)
            if self.size - self._synced >= SYNC_BYTES and self._sync.is_idle():
                self._synced = self.size
                self._sync.wait(0)
                self._sync.submit(functools.partial(faults.sync, self._descriptor, os.fdatasync))

    def _finish(self) -> None:
        rest = self._blocks[self._current][: self._filled]
        self._filled = 0
        write_all(self._descriptor, rest)
        self.size += len(rest)
        self._sync.finish()
        faults.sync(self._descriptor)  # the last blocks are being hashed meanwhile
        self._hash.finish()
        self._state.update(rest)
        if not self.sha256:
            self.sha256 = self._state.hexdigest()
        arrived = os.fstat(self._descriptor).st_size
        if arrived != self.size:
            raise OSError(errno.EIO, f"{arrived} bytes arrived of {self.size}")

    def _discard(self) -> None:
        self._abandon()
        self.path.unlink(missing_ok=True)

    def _abandon(self) -> None:
        for helper in (self._sync, self._hash):
            with contextlib.suppress(OSError):  # the file is given up already
                helper.finish()
        self._release()
        super().close()

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


class KeptFile(HashingFile):
    """A hashing file that stays where its writer dies or fails, and that the next one goes on with.

    marks: lengths, rising, and the SHA-256 of as many first bytes, as :meth:`mark` gave them. The longest
    beginning that has one of them is kept, ``kept`` bytes; whatever is behind it is cut off.
    """

    _FLAGS = os.O_RDWR | os.O_CREAT

    def __init__(self, path: Path, marks: Iterable[tuple[int, str]]) -> None:
        super().__init__(path)
        try:
            with storage(path):
                self.kept = self.size = self._synced = self._hash_kept(marks)
                os.ftruncate(self._descriptor, self.kept)
                os.lseek(self._descriptor, self.kept, os.SEEK_SET)
        except BaseException:
            self._discard()
            raise

    def mark(self) -> tuple[int, str]:
        """How many bytes were written, all of them by now, and their SHA-256."""
        self._write_block()
        self._hash.wait(0)
        return self.size, self._state.hexdigest()

    def _hash_kept(self, marks: Iterable[tuple[int, str]]) -> int:
        read, kept, state = 0, 0, self._state.copy()
        for size, digest in marks:
            while read < size:
                count = os.readv(self._descriptor, [self._blocks[0][: size - read]])
                if not count:
                    return kept
                state.update(self._blocks[0][:count])
                read += count
            if state.hexdigest() != digest:
                return kept
            kept, self._state = size, state.copy()
        return kept

    def _discard(self) -> None:
        self._abandon()


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
