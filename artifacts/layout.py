"""How a store lies on the disk: its folders, the version of that layout, the names it takes, its journal."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING

from . import faults, locks
from .digest import canonical_json
from .errors import StoreError
from .files import READ_ONLY, remove_tree, unique_name, write_all, write_file

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "ingot/store/v1"
FORMAT_FILE = "format.json"
JOURNAL = "journal.jsonl"
FOLDERS = ("trees", "actions", "runs", "jobs", "stats/trees", "stats/files", "pins", "tmp", "locks", "trash")
LOCK_SUFFIX = ".lock"
USE_LOCK = f"use{LOCK_SUFFIX}"
RECORD_LOCK = f"record{LOCK_SUFFIX}"
NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._@=+-]{0,199}")


def check_name(name: str) -> str:
    """``name`` when it can name an entry of the store; raises StoreError otherwise."""
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot be the name of anything in a store")
    return name


def prepare(root: Path) -> None:
    """Makes a store's folders where there are none, and sweeps away the outboxes of dead writers.

    Raises StoreError for another layout, OSError for what the disk refuses; a store that exists may be on a
    read-only disk.
    """
    marker = root / FORMAT_FILE
    try:
        value = json.loads(marker.read_bytes())
    except FileNotFoundError:
        _create(root, marker)
    except ValueError as error:
        raise StoreError("the store's format.json cannot be read", where=str(marker)) from error
    else:
        if value != {"schema": FORMAT}:
            raise StoreError(
                f"the store's layout is {value!r}, and this Ingot reads {FORMAT}",
                where=str(root),
                fix="name another directory with --store, or use the Ingot that made it",
            )
    try:
        sweep(root / "tmp")
    except OSError as error:
        if error.errno not in READ_ONLY:  # what cannot be written cannot be swept either, but can be read
            raise


def _create(root: Path, marker: Path) -> None:
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in (USE_LOCK, RECORD_LOCK):
        (root / "locks" / name).touch()  # a later reader may find the disk read-only
    temporary = root / f".{unique_name()}"
    write_file(temporary, canonical_json({"schema": FORMAT}))
    temporary.rename(marker)


def sweep(folder: Path) -> tuple[str, ...]:
    """Deletes the outboxes in ``folder`` whose holders are dead; returns their names."""
    names = sorted({path.name.removesuffix(LOCK_SUFFIX) for path in folder.iterdir()})
    swept = []
    for name in names:
        lock = folder / f"{name}{LOCK_SUFFIX}"
        descriptor = locks.try_take(lock)
        if descriptor is None:
            continue
        try:
            remove_tree(folder / name)
            lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
        swept.append(name)
    return tuple(swept)


def journal(root: Path, event: str, **details: object) -> dict[str, object]:
    """Appends one line (event, UTC time, details) to the store's journal and returns it as a mapping."""
    now = time.gmtime(faults.time_ns() // 10**9)
    value = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", now), **details}
    descriptor = os.open(root / JOURNAL, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # A crash may have torn the last line: what follows must not become part of it.
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        write_all(descriptor, b"\n" * torn + canonical_json(value) + b"\n")
    finally:
        os.close(descriptor)
    return value
