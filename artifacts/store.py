"""The store: artifacts named by content, the actions that led to them, and the runs that asked for them.

Below its root (`~/.cache/ingot`, INGOT_STORE or --store)::

    format.json             the version of this layout
    trees/<sha256>/         one artifact: artifact.json, whose SHA-256 is the name, and payload/
    actions/<key>.json      how a key led to an artifact, and what was observed
    runs/<id>/              plan, journal and report of one run; ids begin with their UTC start
    jobs/<key>/             scratch that survives a kill
    stats/                  what sizes and times files had when they were hashed; only a memory
    pins/<sha256>           artifacts that gc must keep, and why
    tmp/ trash/ locks/      outboxes; what is corrupt or collected; flock'ed files
    journal.jsonl           what was set aside or collected
    clock                   its mtime is the last time the store gave; see clock.py

One directory may serve many processes at once: whatever appears does so by one rename, whole.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import actions, layout, locks, stats
from .clock import store_time_ns
from .digest import canonical_json, digest_bytes
from .errors import CorruptError, DataError, StoreError
from .faults import fault
from .files import NO_SPACE, READ_ONLY, remove_tree, storage, storage_error, unique_name
from .hashing import HashingFile, copy_file
from .layout import check_name
from .manifest import Action, Artifact
from .outbox import Outbox
from .tree import PAYLOAD, ForeignError, check, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from .gc import GcReport
    from .verify import VerifyReport

DEFAULT = "~/.cache/ingot"
PLACE_ATTEMPTS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """A directory of artifacts; every method is safe to call from many processes at once."""

    root: Path

    @staticmethod
    def open(path: Path | None = None) -> Store:
        """The store at ``path``, else at INGOT_STORE, else at `~/.cache/ingot`; made when it is not there.

        Outboxes whose writers died are swept away. A store that exists may be read-only; writing to it raises
        StoreError, as do a path that is not a directory and a store of another layout.
        """
        try:
            root = Path.cwd() / (path or Path(os.environ.get("INGOT_STORE") or DEFAULT)).expanduser()
        except RuntimeError as error:
            raise StoreError(f"no place for the store: {error}", fix="name one with --store") from error
        with storage(root):
            layout.prepare(root)
        return Store(root)

    @property
    def trees(self) -> Path:
        """Where artifacts lie."""
        return self.root / "trees"

    def stat_entry(self, digest: str) -> Path:
        """Where the sizes and times of an artifact's files are remembered; its mtime is the last use."""
        return self.root / "stats" / "trees" / f"{digest}.json"

    def outbox(self) -> Outbox:
        """A place to write one new artifact; a context manager."""
        return Outbox(self)

    def artifact(self, digest: str) -> Artifact | None:
        """The artifact called ``digest``, checked; None when it is not here.

        Files whose size, times or inode are not as remembered are hashed again; a corrupt tree is moved to
        the trash with the reason, and None returned, so that it is rebuilt and never served.
        """
        tree = self.trees / check_name(digest)
        if not os.path.lexists(tree):
            return None
        entry = self.stat_entry(digest)
        known = stats.load_tree(entry)
        try:
            with storage(tree):
                record = read_record(tree, digest)
                seen = check(tree, record, known)
        except ForeignError as error:
            log.warning("%s", error)
            return None
        except CorruptError as error:
            self.quarantine(digest, error.what)
            return None
        if seen != known:
            stats.remember_tree(entry, seen)
        return Artifact(digest, record, tree / PAYLOAD)

    def digests(self) -> list[str]:
        """The names of all artifacts, unchecked, in order."""
        return sorted(path.name for path in self.trees.iterdir())

    def lookup(self, key: str) -> tuple[Action, Artifact] | None:
        """What ``key`` led to, when its record is readable and its artifact is here and sound.

        Anything less is a miss, and what was lost a warning. Being found counts as use, which gc goes by.
        """
        action = self.read_action(key)
        if action is None:
            return None
        artifact = self.artifact(action.output)
        if artifact is None:
            log.warning("the output of %s is missing or corrupt and has to be built again", action.node)
            return None
        self.touch(artifact.digest)
        return action, artifact

    def touch(self, digest: str) -> None:
        """Notes that an artifact was used now, which gc goes by."""
        stats.touch(self.stat_entry(digest), store_time_ns(self.root))

    def action(self, key: str) -> Action | None:
        """The record of ``key``, or None when :meth:`lookup` finds nothing."""
        found = self.lookup(key)
        return found[0] if found else None

    def read_action(self, key: str) -> Action | None:
        """The record of ``key``, whether or not its artifact is still here; None when torn or foreign."""
        return actions.read(self.root / "actions", key)

    def actions(self) -> Iterator[Action]:
        """Every readable action record, in the order of the keys."""
        return actions.read_all(self.root / "actions")

    def newest_keys(self) -> list[str]:
        """The keys of all action records, readable or not, the last written first."""
        return actions.newest_keys(self.root / "actions")

    def record(self, action: Action) -> Action:
        """Writes an action record and returns the one that now holds: the first publisher of a key wins.

        A later, different output is noted in the first one's ``observed["divergence"]``. When the first one's
        artifact is gone, the later one takes its place and notes the former output.
        """
        folder = self.root / "actions"
        with self._locked(locks.exclusive, self.root / "locks" / layout.RECORD_LOCK), storage(folder):
            first = actions.read(folder, action.key)
            if first is not None and first.output == action.output:
                return first
            kept = action
            if first is not None:
                is_here = self.artifact(first.output) is not None
                kept, other = (first, action) if is_here else (action, first)
                kept = actions.with_divergence(kept, other)
            return actions.write(folder, kept, store_time_ns(self.root))

    def key_lock(self, name: str) -> Path:
        """The file behind :meth:`lock`."""
        return self.root / "locks" / f"key-{check_name(name)}{layout.LOCK_SUFFIX}"

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Holds the lock called ``name``, waiting for others; it saves double work and guards nothing."""
        return self._locked(locks.exclusive, self.key_lock(name))

    def lock_of(self, directory: Path) -> AbstractContextManager[None]:
        """Holds the lock of a directory outside of the store, for which those who write there take turns."""
        return self.lock(digest_bytes(str(directory.resolve()).encode()))

    def shared_use(self) -> AbstractContextManager[None]:
        """Keeps gc away; a run holds it from start to end."""
        return self._locked(locks.shared, self.root / "locks" / layout.USE_LOCK)

    def sole_use(self) -> AbstractContextManager[None]:
        """Held by gc while it chooses and removes; raises StoreError when a run is using the store."""
        return self._locked(locks.alone, self.root / "locks" / layout.USE_LOCK)

    def file_digest(self, path: Path) -> str:
        """The SHA-256 of a file outside the store, remembered until its size, times or inode change.

        Raises DataError when it cannot be read, is no regular file, or changes meanwhile.
        """
        return stats.digest_of(path, self.root / "stats" / "files")

    def job_dir(self, key: str) -> Path:
        """The scratch directory of ``key``; it survives a kill, until :meth:`discard_job` or gc."""
        return self._directory("jobs", key)

    def discard_job(self, key: str) -> None:
        """Deletes the scratch directory of ``key``."""
        path = self.root / "jobs" / check_name(key)
        with storage(path):
            remove_tree(path)

    def run_dir(self, run_id: str) -> Path:
        """The directory of one run, made when it is not there."""
        return self._directory("runs", run_id)

    def runs(self) -> list[str]:
        """The ids of all runs, newest first: ids begin with their UTC start time."""
        return sorted((path.name for path in (self.root / "runs").iterdir()), reverse=True)

    def pin(self, digest: str, reason: str) -> None:
        """Keeps an artifact from gc, whatever the bound; raises StoreError when it is not here."""
        if self.artifact(digest) is None:
            raise StoreError(f"there is no artifact {digest}", where=str(self.root))
        path = self.root / "pins" / digest
        with storage(path):
            path.write_text(reason, encoding="utf-8")

    def unpin(self, digest: str) -> None:
        """Lets gc have an artifact again."""
        path = self.root / "pins" / check_name(digest)
        with storage(path):
            path.unlink(missing_ok=True)

    def pins(self) -> list[str]:
        """The artifacts that gc must keep, in order."""
        return sorted(path.name for path in (self.root / "pins").iterdir())

    def verify(
        self,
        digests: Iterable[str] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> VerifyReport:
        """Hashes the named artifacts (None: all) and reads every action record; sets aside what is corrupt.

        progress(done, total, digest) is called before each artifact. Raises StoreError for an unknown one.
        """
        from .verify import verify

        return verify(self, digests, progress)

    def gc(self, max_bytes: int | None = None, *, keep_runs: int = 1) -> GcReport:
        """Removes garbage, then the least recently used artifacts until the store fits ``max_bytes``.

        What the newest ``keep_runs`` runs mention, pins and live locks stay. Raises StoreError while a run
        uses the store.
        """
        from .gc import collect

        return collect(self, max_bytes, keep_runs)

    def copy_out(self, artifact: Artifact, destination: Path) -> None:
        """Copies an artifact's files into a directory (reflinks where the disk can), verifying each byte.

        Raises CorruptError, with the tree set aside, when a file is not what was recorded; StoreError when
        the disk refuses or a file is in the way. On an error none of the files stays behind.
        """
        with contextlib.ExitStack() as undo:
            for file in artifact.record.files:
                target = destination / file.path
                with storage(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                with HashingFile(target) as written:
                    undo.callback(target.unlink, missing_ok=True)
                    try:
                        copy_file(artifact.path / file.path, written)
                    except DataError as error:
                        raise self._corrupt(artifact, error.what) from error
                if (written.sha256, written.size) != (file.sha256, file.size):
                    raise self._corrupt(artifact, f"{file.path} does not have the recorded SHA-256")
            undo.pop_all()

    def place(self, tree: Path, digest: str) -> Artifact | None:
        """Renames a finished tree to its place; when a sound one is there already, that one is returned."""
        for _ in range(PLACE_ATTEMPTS):
            try:
                tree.rename(self.trees / digest)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                existing = self.artifact(digest)  # a corrupt one is set aside, which makes room
                if existing is not None:
                    return existing
            else:
                return None
        raise StoreError("a corrupt artifact cannot be moved out of the way", where=str(self.trees / digest))

    def quarantine(self, digest: str, reason: str) -> None:
        """Moves a tree to the trash, with the reason beside it, in the journal and in the log.

        Raises StoreError for a disk that fails; one that is full or read-only is put up with.
        """
        name = f"{digest}-{unique_name()}"
        log.warning("artifact %s is corrupt (%s) and is set aside", digest[:12], reason)
        try:
            (self.trees / check_name(digest)).rename(self.root / "trash" / name)
            fault("quarantine.moved")
            value = layout.journal(self.root, "quarantined", digest=digest, reason=reason, trash=name)
            (self.root / "trash" / f"{name}.json").write_bytes(canonical_json(value))
            fault("quarantine.noted")
            self.stat_entry(digest).unlink(missing_ok=True)
        except FileNotFoundError:
            return  # another process was faster
        except OSError as error:
            if error.errno not in (*READ_ONLY, *NO_SPACE):  # what cannot be moved is not served either
                raise storage_error(error, self.trees / digest) from error

    def _corrupt(self, artifact: Artifact, reason: str) -> CorruptError:
        self.quarantine(artifact.digest, reason)
        return CorruptError(reason, where=str(artifact.path), fix="run again: it will be rebuilt")

    def _directory(self, folder: str, name: str) -> Path:
        path = self.root / folder / check_name(name)
        with storage(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _locked(self, kind: locks.Kind, path: Path) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            with storage(path):
                held.enter_context(kind(path))
            yield
