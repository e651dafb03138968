"""Garbage collection: forgets what nothing can reach, then the least recently used until the store fits.

Nothing is taken while a run uses the store. Kept whatever the bound: what the newest runs mention, what is
pinned, and what a living process has locked. Trees leave in two steps, a rename to the trash and then the
deletion, so that a collector that dies halfway leaves only more garbage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import actions, faults, locks
from .faults import fault
from .files import remove_tree, size_of, storage, unique_name
from .layout import LOCK_SUFFIX, RECORD_LOCK, USE_LOCK, journal, sweep
from .locks import is_held

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .manifest import Action
    from .store import Store

MENTION = re.compile(rb"[0-9a-f]{64}")
STAT_ENTRY_LIFE_SECONDS = 90 * 24 * 3600


@dataclass(frozen=True)
class Item:
    """Something that can be removed: a tree or a job directory, its bytes, and when it was last used."""

    path: Path
    size_bytes: int
    last_used_ns: int


@dataclass(frozen=True)
class GcReport:
    """What a collection did; sizes in bytes.

    trees, actions, jobs, outboxes: names of what was removed.  kept_bytes: what the store takes now.
    protected_bytes: the part of it that no bound can remove: runs, pins and locks hold it.
    """

    trees: tuple[str, ...]
    actions: tuple[str, ...]
    jobs: tuple[str, ...]
    outboxes: tuple[str, ...]
    freed_bytes: int
    kept_bytes: int
    protected_bytes: int
    max_bytes: int | None

    @property
    def within_limit(self) -> bool:
        """Whether the store now fits the bound that was asked for."""
        return self.max_bytes is None or self.kept_bytes <= self.max_bytes


def collect(store: Store, max_bytes: int | None, keep_runs: int) -> GcReport:
    """Removes garbage, then the least recently used trees and jobs until ``max_bytes`` (None: no bound).

    keep_runs: how many of the newest runs keep what they mention. Raises StoreError while a run uses the
    store.
    """
    with storage(store.root):
        before = size_of(store.root)
        with store.sole_use():
            outboxes = sweep(store.root / "tmp")
            roots = _roots(store, keep_runs)
            records = _live_records(store)
            trees = [_tree_item(store, digest) for digest in store.digests()]
            jobs = [Item(path, size_of(path), path.stat().st_mtime_ns) for path in _children(store, "jobs")]
            held = {item.path for item in trees if item.path.name in roots | _outputs(records, roots)}
            built = _built(trees, records)
            held |= {item.path for item in jobs if _is_live_job(store, item.path.name, roots - built)}
            doomed = _garbage(trees, jobs, records, held, built)
            if max_bytes is not None:
                used = size_of(store.root) - size_of(store.root / "trash")
                loose = {item for item in (*trees, *jobs) if item.path not in held} - set(doomed)
                doomed += _oldest(loose, used - sum(item.size_bytes for item in doomed) - max_bytes)
            gone = _forget(store, {item.path.name for item in doomed}, records)
            fault("gc.forgotten")
            for item in doomed:
                item.path.rename(store.root / "trash" / f"{item.path.name}-{unique_name()}")
                fault("gc.trashed")
            _tidy(store)
            fault("gc.tidied")
        for path in _children(store, "trash"):
            remove_tree(path)
            fault("gc.removed")
        kept = size_of(store.root)
        report = GcReport(
            trees=tuple(item.path.name for item in doomed if item in trees),
            actions=gone,
            jobs=tuple(item.path.name for item in doomed if item in jobs),
            outboxes=outboxes,
            freed_bytes=before - kept,
            kept_bytes=kept,
            protected_bytes=sum(item.size_bytes for item in (*trees, *jobs) if item.path in held),
            max_bytes=max_bytes,
        )
        journal(store.root, "collected", trees=list(report.trees), freed_bytes=report.freed_bytes)
        return report


def _roots(store: Store, keep_runs: int) -> set[str]:
    """Every digest and key that a kept run's files mention, and the pins."""
    found = set(store.pins())
    for run in store.runs()[:keep_runs]:
        for path in (store.root / "runs" / run).glob("*.json*"):
            found.update(match.decode() for match in MENTION.findall(path.read_bytes()))
    return found


def _live_records(store: Store) -> dict[str, Action | None]:
    folder = store.root / "actions"
    return {key: actions.read(folder, key) for key in actions.keys(folder)}


def _outputs(records: dict[str, Action | None], keys: set[str]) -> set[str]:
    return {action.output for key, action in records.items() if action is not None and key in keys}


def _tree_item(store: Store, digest: str) -> Item:
    path = store.trees / digest
    entry = store.stat_entry(digest)
    last_used = entry if entry.exists() else path
    return Item(path, size_of(path), last_used.stat().st_mtime_ns)


def _is_live_job(store: Store, key: str, wanted: set[str]) -> bool:
    return key in wanted or is_held(store.key_lock(key))


def _built(trees: list[Item], records: dict[str, Action | None]) -> set[str]:
    """The keys whose output is here: their scratch serves nothing, whichever run mentions them."""
    here = {item.path.name for item in trees}
    return {key for key, action in records.items() if action is not None and action.output in here}


def _garbage(
    trees: list[Item],
    jobs: list[Item],
    records: dict[str, Action | None],
    held: set[Path],
    built: set[str],
) -> list[Item]:
    """Trees that no record leads to, and the scratch of keys that are built."""
    outputs = _outputs(records, set(records))
    unreached = [item for item in trees if item.path.name not in outputs and item.path not in held]
    return unreached + [item for item in jobs if item.path.name in built and item.path not in held]


def _oldest(items: Iterable[Item], excess_bytes: int) -> list[Item]:
    chosen: list[Item] = []
    for item in sorted(items, key=lambda item: (item.last_used_ns, item.path.name)):
        if excess_bytes <= 0:
            break
        chosen.append(item)
        excess_bytes -= item.size_bytes
    return chosen


def _forget(store: Store, doomed: set[str], records: dict[str, Action | None]) -> tuple[str, ...]:
    """Deletes the records that are unreadable or lead to a tree that is gone or about to go."""
    left = set(store.digests()) - doomed
    gone = tuple(key for key, action in records.items() if action is None or action.output not in left)
    for key in gone:
        actions.path_of(store.root / "actions", key).unlink(missing_ok=True)
    return gone


def _tidy(store: Store) -> None:
    """Deletes what killed processes left half-written, idle locks, and memories of what is gone."""
    here = set(store.digests())
    for path in (*store.root.glob(".*"), *(store.root / "runs").glob("*/**/.*")):
        path.unlink(missing_ok=True)  # no run is under way: nobody is writing these
    for path in _children(store, "stats/trees"):
        if path.stem not in here:
            path.unlink(missing_ok=True)
    oldest = faults.time_ns() / 1e9 - STAT_ENTRY_LIFE_SECONDS
    for path in (*_children(store, "stats/files"), *(store.root / "stats" / "verdicts").glob("*")):
        if path.name.startswith(".") or path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
    with locks.exclusive(store.root / "locks" / RECORD_LOCK):
        for path in _children(store, "actions"):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)
    for path in _children(store, "locks"):
        if path.name.endswith(LOCK_SUFFIX) and path.name not in (USE_LOCK, RECORD_LOCK):
            locks.remove_idle(path)


def _children(store: Store, folder: str) -> list[Path]:
    return sorted((store.root / folder).iterdir())
