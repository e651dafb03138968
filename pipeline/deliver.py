"""Delivers what a person ships: the artifact's files, manifest, model card and report, in one directory.

    OUT/<target>/              the artifact of the last run, which passed its gate
    OUT/<target>.unverified/   built, but not measured to the end here (`ingot validate` does that where its
                               device is), or delivered although it did not pass
    OUT/<target>.previous/     an earlier delivery that passed, set aside when a later run did not

So `OUT/<target>/` exists only while the last run into OUT passed: nobody can take an older artifact for the
new one, and nothing that could be shipped is lost either. A directory is written beside its place and renamed
whole. One that already is what would be delivered stays as it is; one that is no delivery is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..artifacts.digest import digest_bytes
from ..artifacts.errors import DataError, StoreError
from ..artifacts.faults import fault
from ..artifacts.files import remove_tree, storage, sync_directory, unique_name, write_file
from ..artifacts.manifest import Artifact
from .card import render_card
from .delivery_manifest import MANIFEST, VERIFICATIONS, manifest, read_manifest, without_occasion
from .evidence import DIRECTORY as VALIDATION
from .evidence import Evidence
from .report.collect import SESSION
from .report.html import render_html
from .report.model import TargetReport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ..artifacts.store import Store
    from .gate import Status
    from .report.model import RunReport

CARD = "README.md"
REPORT = "report.html"
OURS = (CARD, REPORT)
# What is found out later on other machines goes into the last.
TAKEN = (f"{VALIDATION}/", f"{VERIFICATIONS}/")
UNVERIFIED = ".unverified"
PREVIOUS = ".previous"
NEW, OLD = "new", "old"
# What is delivered unasked, and what only on request (`--allow-failing`).
DELIVERED: frozenset[Status] = frozenset({"pass", "unverified"})
ON_REQUEST: frozenset[Status] = frozenset({"fail", "inconclusive", "error"})


def check_places(out: Path, targets: Iterable[str]) -> None:
    """Makes ``out`` and sees that deliveries can be written there: a run asks before its work, not after.

    Raises StoreError when the disk refuses, or when something that is no delivery stands where one would.
    """
    for name in targets:
        for suffix in ("", UNVERIFIED, PREVIOUS):
            _check_ours(out / f"{name}{suffix}")
    with storage(out):
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()


def deliver_targets(
    store: Store,
    report: RunReport,
    artifacts: Mapping[str, Artifact],
    out: Path,
    statuses: Collection[Status] = DELIVERED,
    evidence: Mapping[str, Evidence] = MappingProxyType({}),
) -> RunReport:
    """Delivers the targets that have an artifact and one of ``statuses``; the report with their places.

    artifacts: by target.  evidence: by target, what it takes along to be measured again.  Earlier deliveries
    of every target of the report are replaced, or set aside where nothing new is delivered and they are not
    what this run made. Raises StoreError when the disk refuses or
    something else is in the way, and CorruptError when a stored file is not what was recorded; then nothing
    half-written stays.
    """
    places = {
        name: out / (name if target.status == "pass" else f"{name}{UNVERIFIED}")
        for name, target in report.targets.items()
        if name in artifacts and target.status in statuses
    }
    targets = {
        name: replace(target, delivery=str(places[name]) if name in places else None)
        for name, target in report.targets.items()
    }
    delivered = replace(report, targets=targets)
    with store.lock_of(out), storage(out):
        check_places(out, targets)
        _sweep(out)
        for name, target in targets.items():
            if name in places:
                shipped = _Shipped(target, artifacts[name], evidence.get(name, Evidence()))
                _deliver(store, delivered, shipped, places[name])
            elif _holds(out / name, target):
                continue  # a cell that was chosen earlier, and still is what passes
            _retire(out, name, places.get(name))
    return delivered


def _holds(place: Path, target: TargetReport) -> bool:
    """Whether the delivery at ``place`` is of an artifact that passes now too."""
    known = read_manifest(place)
    return known is not None and target.status == "pass" and known["artifact"] == target.artifact


@dataclass(frozen=True)
class _Shipped:
    """What goes into one delivery."""

    target: TargetReport
    artifact: Artifact
    evidence: Evidence

    @property
    def reference(self) -> Artifact | None:
        """The predictions that go with it: of what is not verified, so that it can be where its device is."""
        return self.evidence.reference if self.target.status == "unverified" else None

    def files(self) -> dict[str, tuple[int, str]]:
        """Size and SHA-256 of each file of the store, by its path in the delivery."""
        found = {file.path: (file.size, file.sha256) for file in self.artifact.record.files}
        for file in self.reference.record.files if self.reference else ():
            found[f"{VALIDATION}/{file.path}"] = file.size, file.sha256
        return found

    def manifest(self, report: RunReport, files: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
        """The content of `manifest.json`; files: all but itself."""
        return manifest(report, self.target, self.artifact, files, self.evidence.document)


def _deliver(store: Store, report: RunReport, shipped: _Shipped, place: Path) -> None:
    """Writes a delivery, or leaves the one that is there when it is the same and whole."""
    if place.exists() and _is_delivered(store, report, shipped, place):
        return
    with _beside(place) as directory:
        _fill(store, report, shipped, directory)


def _is_delivered(store: Store, report: RunReport, shipped: _Shipped, place: Path) -> bool:
    """Whether an earlier run delivered the same artifact with the same findings, and all of it is intact."""
    known = read_manifest(place)
    wanted = shipped.manifest(report, shipped.files())
    if known is None or without_occasion(known, OURS) != without_occasion(wanted, OURS):
        return False
    try:
        return all(store.file_digest(place / file["path"]) == file["sha256"] for file in known["files"])
    except DataError:
        return False


def _fill(store: Store, report: RunReport, shipped: _Shipped, directory: Path) -> None:
    """Writes one delivery: the artifact's files, checked as they are copied, then ours, the manifest last."""
    files = shipped.files()
    names = {file.path for file in shipped.artifact.record.files}
    taken = names & {*OURS, MANIFEST} | {name for name in names if name.startswith(TAKEN)}
    if taken:
        raise StoreError(f"the artifact has files of its own called {', '.join(sorted(taken))}")
    store.copy_out(shipped.artifact, directory)
    if shipped.reference is not None:
        store.copy_out(shipped.reference, directory / VALIDATION)
    card = render_card(report, shipped.target, _session(directory))
    for name, text in {CARD: card, REPORT: render_html(report)}.items():
        data = text.encode()
        write_file(directory / name, data)
        files[name] = len(data), digest_bytes(data)
    record = shipped.manifest(report, files)
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    write_file(directory / MANIFEST, f"{text}\n".encode())


def _session(directory: Path) -> Mapping[str, Any]:
    path = directory / SESSION
    value = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A directory to write into, which takes the place of ``place`` at the end, or vanishes on an error."""
    fresh = place.with_name(f".{place.name}.{unique_name()}.{NEW}")
    fresh.mkdir()
    try:
        yield fresh
        for directory, _, _ in os.walk(fresh, topdown=False):
            sync_directory(Path(directory))
        fault("delivery.written")
        _replace(place, fresh)
        sync_directory(place.parent)
    finally:
        if fresh.exists():
            remove_tree(fresh)


def _replace(place: Path, fresh: Path) -> None:
    """Renames ``fresh`` to ``place``. Between the two renames, a moment, there is nothing at the place."""
    if not place.exists():
        fresh.rename(place)
        return
    old = place.with_name(f".{place.name}.{unique_name()}.{OLD}")
    place.rename(old)
    try:
        fault("delivery.set-aside")
        fresh.rename(place)
    except OSError:
        old.rename(place)
        raise
    fault("delivery.renamed")
    remove_tree(old)


def _retire(out: Path, name: str, place: Path | None) -> None:
    """Sees to it that a target's directories speak of the last run alone; see the module's docstring."""
    passing, unverified, previous = (out / f"{name}{suffix}" for suffix in ("", UNVERIFIED, PREVIOUS))
    stale = [unverified, previous] if place == passing else [unverified] if place is None else []
    for directory in stale:
        if directory.exists():
            remove_tree(directory)
    if place != passing and passing.exists():
        _replace(previous, passing)


def _sweep(out: Path) -> None:
    """Clears away what a killed run left; the caller holds the lock of ``out``.

    A delivery that was renamed to make room for one that never came goes back to its place.
    """
    for left in out.glob(f".*.{'[0-9a-f]' * 16}.{OLD}"):
        place = out / left.name[1:].rsplit(".", 2)[0]
        if place.exists():
            remove_tree(left)
        else:
            left.rename(place)
    for left in out.glob(f".*.{'[0-9a-f]' * 16}.{NEW}"):
        remove_tree(left)


def _check_ours(place: Path) -> None:
    """Raises StoreError when something that is not a delivery stands where one would."""
    if place.exists() and read_manifest(place) is None:
        raise StoreError(
            "this is in the way of a delivery, and is not one itself",
            where=str(place),
            fix="move it, or choose another directory with --out",
        )
