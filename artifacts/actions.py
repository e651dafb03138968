"""Action records on the disk: one JSON file a key, with a checksum over its own content."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from .clock import mark
from .digest import canonical_json, digest_json
from .errors import StoreError
from .faults import fault
from .files import sync_directory, unique_name, write_file
from .layout import check_name
from .manifest import Action

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)


def path_of(folder: Path, key: str) -> Path:
    """Where the record of ``key`` is kept."""
    return folder / f"{check_name(key)}.json"


def read(folder: Path, key: str) -> Action | None:
    """The record of ``key``; None when there is none, and (with a warning) when it is torn or foreign."""
    path = path_of(folder, key)
    try:
        action = _parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StoreError) as error:
        log.warning("the action record %s cannot be used and is ignored: %s", path.name, error)
        return None
    if action.key != key:
        log.warning("the action record %s is another key's and is ignored", path.name)
        return None
    return action


def read_all(folder: Path) -> Iterator[Action]:
    """Every readable record, in the order of the keys."""
    for key in keys(folder):
        action = read(folder, key)
        if action is not None:
            yield action


def keys(folder: Path) -> list[str]:
    """The keys that have a record, readable or not, in order."""
    return sorted(path.stem for path in _paths(folder))


def newest_keys(folder: Path) -> list[str]:
    """The keys that have a record, readable or not, the last written first."""
    return [path.stem for path in sorted(_paths(folder), key=lambda path: -path.stat().st_mtime_ns)]


def write(folder: Path, action: Action, time_ns: int) -> Action:
    """Puts a record in its place, whole, and on the disk when this returns.

    time_ns: when, by the clock of the store; it orders the records.
    """
    value = action.to_json()
    value["sha256"] = digest_json(value)
    temporary = folder / f".{unique_name()}"
    try:
        write_file(temporary, canonical_json(value))
        mark(temporary, time_ns)
        fault("record.written")
        temporary.rename(path_of(folder, action.key))
    finally:
        temporary.unlink(missing_ok=True)
    fault("record.renamed")
    sync_directory(folder)
    fault("record.synced")
    return action


def with_divergence(kept: Action, other: Action) -> Action:
    """``kept`` with a note that the same key also led to ``other``'s output."""
    noted = kept.observed.get("divergence")
    entries = list(noted) if isinstance(noted, list | tuple) else []
    observed = other.observed
    entry = {"output": other.output, "run": observed.get("run"), "finished": observed.get("finished")}
    if entry not in entries:
        entries.append(entry)
    return replace(kept, observed={**kept.observed, "divergence": entries})


def _paths(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _parse(data: bytes) -> Action:
    value = json.loads(data)
    if value.pop("sha256") != digest_json(value):
        raise ValueError("its checksum does not match")
    action = Action.from_json(value)
    check_name(action.output)
    return action
