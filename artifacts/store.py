"""The store: artifacts named by content, the actions that led to them, and the runs that asked for them.

Below its root (`~/.cache/ingot`, INGOT_STORE or --store)::

    format.json                     the version of this layout
    trees/<sha256>/                 one artifact: artifact.json and payload/; the name is the SHA-256 of the former
    actions/<key>.json              how a key led to an artifact, and what was observed
    runs/<id>/                      plan, journal and report of one run; ids begin with their UTC start
    jobs/<key>/                     scratch that survives a kill
    stats/                          what sizes and times files had when they were hashed; only a memory
    pins/                           artifacts that gc must keep
    tmp/ locks/ trash/ journal.jsonl

One directory may serve many processes at once: whatever appears does so by one rename, whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from . import locks, stats
from .digest import canonical_json, digest_json
from .errors import CorruptError, StoreError
from .faults import fault
from .files import (
    READ_ONLY,
    remove_tree,
    storage,
    sync_directory,
    unique_name,
    write_file,
)
from .manifest import Action, Artifact
from .outbox import Outbox, sweep
from .tree import PAYLOAD, ForeignError, check, read_record

FORMAT = "ingot/store/v1"
FOLDERS = ("trees", "actions", "runs", "jobs", "stats/trees", "stats/files", "pins", "tmp", "locks", "trash")
NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._@=+-]{0,199}")

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
        chosen = path or Path(os.environ.get("INGOT_STORE") or Path.home() / ".cache" / "ingot")
        root = Path(os.path.abspath(chosen.expanduser()))  # noqa: PTH100 - a store may be reached through a link
        with storage(root):
            _prepare(root)
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
        known = stats.load_tree(self.stat_entry(digest))
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
            with contextlib.suppress(OSError):  # a read-only store forgets: the next reader hashes again
                stats.save_tree(self.stat_entry(digest), seen)
        stats.touch(self.stat_entry(digest))
        return Artifact(digest, record, tree / PAYLOAD)

    def lookup(self, key: str) -> tuple[Action, Artifact] | None:
        """What ``key`` led to, when its record is readable and its artifact is here and sound."""
        action = self.read_action(key)
        if action is None:
            return None
        artifact = self.artifact(action.output)
        if artifact is None:
            log.warning("the output of %s is missing or corrupt and will be built again", action.node)
            return None
        return action, artifact

    def action(self, key: str) -> Action | None:
        """The record of ``key``, or None when :meth:`lookup` finds nothing."""
        found = self.lookup(key)
        return found[0] if found else None

    def read_action(self, key: str) -> Action | None:
        """The record of ``key``, whether or not its artifact is here; None (and a warning) when damaged."""
        path = self.root / "actions" / f"{check_name(key)}.json"
        try:
            value = json.loads(path.read_bytes())
            checksum = value.pop("sha256")
            action = Action.from_json(value)
            if checksum != digest_json(value) or action.key != key:
                raise ValueError("its checksum does not match")
            check_name(action.output)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, StoreError) as error:
            log.warning("the action record %s is damaged or foreign and is ignored: %s", path.name, error)
            return None
        return action

    def actions(self) -> Iterator[Action]:
        """Every readable action record, in the order of the keys."""
        for name in sorted(os.listdir(self.root / "actions")):
            action = None if name.startswith(".") else self.read_action(name.removesuffix(".json"))
            if action is not None:
                yield action

    def digests(self) -> list[str]:
        """The names of all artifacts, unchecked, in order."""
        return sorted(name for name in os.listdir(self.trees) if NAME.fullmatch(name))

    def record(self, action: Action) -> Action:
        """Writes an action record and returns the one that now holds: the first publisher of a key wins.

        A later, different output is noted in the first one's ``observed.divergence``. When the first one's
        artifact is gone, the later one takes its place and notes the former output.
        """
        with storage(self.root), locks.exclusive(self.root / "locks" / "record.lock"):
            first = self.read_action(action.key)
            if first is None:
                return self._write_action(action)
            if first.output == action.output:
                return first if self.artifact(first.output) else self._write_action(action)
            if self.artifact(first.output) is not None:
                return self._write_action(_with_divergence(first, action))
            return self._write_action(_with_divergence(action, first))

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Holds the lock called ``name``, waiting for others; it saves double work and guards nothing."""
        return self._locked(locks.exclusive, f"key-{check_name(name)}.lock")

    def shared_use(self) -> AbstractContextManager[None]:
        """Keeps gc away; a run holds it from start to end."""
        return self._locked(locks.shared, "use.lock")

    def sole_use(self) -> AbstractContextManager[None]:
        """Held by gc while it chooses and removes; raises StoreError when a run is using the store."""
        return self._locked(locks.alone, "use.lock")

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
        with storage(self.root):
            remove_tree(self.root / "jobs" / check_name(key))

    def run_dir(self, run_id: str) -> Path:
        """The directory of one run, made when it is not there."""
        return self._directory("runs", run_id)

    def runs(self) -> list[str]:
        """The ids of all runs, newest first: ids begin with their UTC start time."""
        return sorted(os.listdir(self.root / "runs"), reverse=True)

    def place(self, tree: Path, digest: str) -> Artifact | None:
        """Renames a finished tree to its place; when a sound one is there already, that one is returned."""
        while True:
            try:
                tree.rename(self.trees / digest)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                existing = self.artifact(digest)
                if existing is not None:
                    return existing
            else:
                return None

    def quarantine(self, digest: str, reason: str) -> None:
        """Moves a tree to the trash, with the reason beside it, in the journal and in the log."""
        name = f"{digest}-{unique_name()}"
        tree = self.trees / check_name(digest)
        log.warning("artifact %s is corrupt (%s) and was set aside", digest[:12], reason)
        try:
            tree.rename(self.root / "trash" / name)
        except FileNotFoundError:
            return  # another process was faster
        except OSError as error:
            if error.errno in READ_ONLY:
                return  # it cannot be moved, and is not served either
            raise
        value = self.note("quarantined", digest=digest, reason=reason, trash=name)
        (self.root / "trash" / f"{name}.json").write_bytes(canonical_json(value))
        self.stat_entry(digest).unlink(missing_ok=True)

    def note(self, event: str, **details: object) -> dict[str, object]:
        """Appends one line to the store's journal (event, UTC time, details) and returns it."""
        value = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **details}
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.root / "journal.jsonl", flags, 0o644)
        try:
            os.write(descriptor, canonical_json(value) + b"\n")
        finally:
            os.close(descriptor)
        return value

    def _write_action(self, action: Action) -> Action:
        value = action.to_json()
        value["sha256"] = digest_json(value)
        folder = self.root / "actions"
        temporary = folder / f".{unique_name()}"
        try:
            write_file(temporary, canonical_json(value))
            fault("record.written")
            temporary.rename(folder / f"{check_name(action.key)}.json")
        finally:
            temporary.unlink(missing_ok=True)
        fault("record.renamed")
        sync_directory(folder)
        fault("record.synced")
        return action

    def _directory(self, folder: str, name: str) -> Path:
        path = self.root / folder / check_name(name)
        with storage(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _locked(self, kind: locks.Kind, name: str) -> Iterator[None]:
        path = self.root / "locks" / name
        with contextlib.ExitStack() as held:
            with storage(path):
                held.enter_context(kind(path))
            yield


def check_name(name: str) -> str:
    """``name`` when it can name an entry of the store; raises StoreError otherwise."""
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot be the name of anything in a store")
    return name


def _with_divergence(kept: Action, other: Action) -> Action:
    noted = kept.observed.get("divergence")
    entries = list(noted) if isinstance(noted, list | tuple) else []
    entry = {"output": other.output, "run": other.observed.get("run"), "finished": other.observed.get("finished")}
    if entry not in entries:
        entries.append(entry)
    return replace(kept, observed={**kept.observed, "divergence": entries})


def _prepare(root: Path) -> None:
    marker = root / "format.json"
    try:
        value = json.loads(marker.read_bytes())
    except FileNotFoundError:
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        temporary = root / f".{unique_name()}"
        write_file(temporary, canonical_json({"schema": FORMAT}))
        temporary.rename(marker)
    except ValueError as error:
        raise StoreError("the store's format.json cannot be read", where=str(marker)) from error
    else:
        if not isinstance(value, dict) or value.get("schema") != FORMAT:
            raise StoreError(
                f"the store has the layout {value!r}, and this Ingot reads {FORMAT}",
                where=str(root),
                fix="name another directory with --store, or use the Ingot that made it",
            )
    try:
        sweep(root / "tmp")
    except OSError as error:
        if error.errno not in READ_ONLY:  # what cannot be written to cannot be swept either, and can be read
            raise
