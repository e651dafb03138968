"""What other packages register by entry points, read once, for that reads the metadata of every package.

The library that reads it is imported when it is first needed: most workers never need it, and it takes longer
to import than much of what they do.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints


def entry_points(group: str) -> EntryPoints:
    """The entry points of a group, such as `ingot.stages`, of what is installed on the path of imports."""
    return _of_group(group, tuple(sys.path))


@functools.cache
def _of_group(group: str, path: tuple[str, ...]) -> EntryPoints:
    found: EntryPoints = _of_all_groups(path).select(group=group)
    return found


@functools.cache
def _of_all_groups(_path: tuple[str, ...]) -> Any:
    """All entry points, of a type that has another name before Python 3.12 but the same `select`."""
    import importlib.metadata

    return importlib.metadata.entry_points()
