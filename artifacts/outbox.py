"""Where a stage writes its output, and how that becomes an artifact: hashed, then renamed into place."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import locks, stats
from .digest import canonical_json, digest_file
from .errors import CorruptError, StoreError
from .faults import fault
from .files import (
    NO_SPACE,
    READ_ONLY,
    check_relative,
    remove_tree,
    seal,
    storage,
    storage_error,
    sync_directory,
    sync_file,
    unique_name,
    write_file,
)
from .hashing import HashingFile, copy_file
from .layout import LOCK_SUFFIX
from .manifest import Artifact, ArtifactRecord, FileRecord
from .tree import PAYLOAD, RECORD, regular_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from .store import Store


class Outbox:
    """A directory on the store's file system for one artifact's files; a context manager.

    Files are written through :meth:`create`, :meth:`copy_in` and the like, which hash on the way, or straight
    into ``payload``; :meth:`publish` hashes those. What is not published is deleted on leaving, and after a
    crash by the next process that opens the store, because the lock died with its holder.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = unique_name()
        self._home = store.root / "tmp" / self._name
        self._lock = store.root / "tmp" / f"{self._name}{LOCK_SUFFIX}"
        self._open: set[str] = set()
        self._written: dict[str, tuple[FileRecord, stats.Signature]] = {}
        self.payload = self._home / PAYLOAD

    def __enter__(self) -> Outbox:
        with storage(self._home):
            self._descriptor = locks.take(self._lock)  # before the directory: a sweeper must see it held
            try:
                self.payload.mkdir(parents=True)
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Deletes what was not published; an OSError for want of space or rights leaves as a StoreError."""
        self._leave()
        if isinstance(error, OSError) and error.errno in (*NO_SPACE, *READ_ONLY, errno.EFBIG):
            raise storage_error(error, self._store.root) from error

    def create(self, relative: str) -> HashingFile:
        """A new file of the payload, open for writing; used as a context manager, it is hashed on the way.

        relative: POSIX path below the payload. Raises StoreError for an odd or taken name, a full disk, a
        read-only store.
        """
        path = self.payload / check_relative(relative)
        if path.exists():
            raise StoreError(f"the file {relative!r} is already in the outbox")
        with storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._open.add(relative)

        def closed(file: HashingFile) -> None:
            self._open.discard(relative)
            record = FileRecord(relative, file.size, file.sha256)
            self._written[relative] = (record, stats.signature(path.stat()))

        return HashingFile(path, closed)

    def copy_in(self, source: Path, relative: str) -> None:
        """Copies a regular file into the payload (a reflink where the disk can), hashed in the same pass.

        Raises DataError when ``source`` cannot be read, is not a regular file, or changes meanwhile.
        """
        with self.create(relative) as target:
            copy_file(source, target)

    def adopt(self, file: HashingFile, relative: str) -> None:
        """Moves a file that was written elsewhere and closed into the payload, copying it to another disk.

        Raises StoreError for an odd or taken name, a full disk, a read-only store.
        """
        path = self.payload / check_relative(relative)
        if path.exists():
            raise StoreError(f"the file {relative!r} is already in the outbox")
        with storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file.path.rename(path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.copy_in(file.path, relative)
                file.path.unlink()
                return
        record = FileRecord(relative, file.size, file.sha256)
        self._written[relative] = (record, stats.signature(path.stat()))

    def write_json(self, relative: str, value: object) -> None:
        """Writes ``value`` as indented JSON with sorted keys; equal values give equal bytes."""
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.write_text(relative, f"{text}\n")

    def write_text(self, relative: str, text: str) -> None:
        """Writes ``text`` in UTF-8, line ends as they are."""
        with self.create(relative) as target:
            target.write(text.encode("utf-8"))

    def publish(self, kind: str, facts: Mapping[str, object]) -> Artifact:
        """Moves the payload into the store as one artifact, whole or not at all; once per outbox.

        kind: what sort of thing it is. facts: plain JSON values that identify it. Raises StoreError when
        nothing was written, a file is still open, a file is no plain file, or the disk refuses.
        """
        with storage(self._store.root):
            return self._publish(kind, facts)

    def _leave(self) -> None:
        try:
            remove_tree(self._home)
            self._lock.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    def _publish(self, kind: str, facts: Mapping[str, object]) -> Artifact:
        fault("publish.locked")
        if not self._home.exists():
            raise StoreError("the outbox was published already, or is not open")
        if self._open:
            raise StoreError(f"{min(self._open)} is still being written")
        fault("publish.written")
        record = ArtifactRecord(kind, tuple(self._hashed_files()), dict(facts))
        fault("publish.hashed")
        try:
            data = canonical_json(record.to_json())
        except (TypeError, ValueError) as error:
            raise StoreError(f"the facts of the {kind} artifact are not plain JSON: {error}") from error
        write_file(self._home / RECORD, data)
        fault("publish.recorded")
        for directory, _, _ in os.walk(self._home, topdown=False):
            sync_directory(Path(directory))
        fault("publish.synced")
        seal(self._home)
        fault("publish.sealed")
        digest = record.digest
        existing = self._store.place(self._home, digest)
        fault("publish.renamed")
        if existing is not None:
            return existing
        sync_directory(self._store.trees)
        fault("publish.parent-synced")
        tree = self._store.trees / digest
        found = regular_files(tree / PAYLOAD)
        stats.remember_tree(
            self._store.stat_entry(digest), {name: stats.signature(s) for name, s in found.items()}
        )
        self._store.touch(digest)
        fault("publish.remembered")
        return Artifact(digest, record, tree / PAYLOAD)

    def _hashed_files(self) -> Iterable[FileRecord]:
        try:
            found = regular_files(self.payload)
        except CorruptError as error:
            raise StoreError(error.what, where=str(self.payload), fix="write a plain file") from error
        if not found:
            raise StoreError("nothing was written to the outbox")
        self._check_names(found)
        for name, status in sorted(found.items()):
            record, seen = self._written.get(name, (None, None))
            if record is None or seen != stats.signature(status):
                sync_file(self.payload / name)
                record = FileRecord(name, status.st_size, digest_file(self.payload / name))
            yield record

    def _check_names(self, names: Iterable[str]) -> None:
        folded: dict[str, str] = {}
        for name in names:
            other = folded.setdefault(check_relative(name).casefold(), name)
            if other != name:
                raise StoreError(f"{other} and {name} are one file where letter case does not count")
