"""What other packages register by entry points, read once, for that reads the metadata of every package."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from typing import Any


def entry_points(group: str) -> importlib.metadata.EntryPoints:
    """The entry points of a group, such as `ingot.stages`, of what is installed on the path of imports."""
    return _of_group(group, tuple(sys.path))


@functools.cache
def _of_group(group: str, path: tuple[str, ...]) -> importlib.metadata.EntryPoints:
    found: importlib.metadata.EntryPoints = _of_all_groups(path).select(group=group)
    return found


@functools.cache
def _of_all_groups(_path: tuple[str, ...]) -> Any:
    """All entry points, of a type that has another name before Python 3.12 but the same `select`."""
    return importlib.metadata.entry_points()
