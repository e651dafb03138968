"""What another Python environment has installed, read from its files: nothing of it runs while planning."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...base import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping

# Below the folder above the interpreter's: virtual and conda environments, Debian's own Python, Windows.
SITE_PATTERNS = (
    "lib/python3*/site-packages", "lib64/python3*/site-packages", "lib/python3*/dist-packages",
    "lib/python3/dist-packages", "local/lib/python3*/dist-packages", "Lib/site-packages",
)  # fmt: skip
PATH_FIX = "name the interpreter of an environment that has it, such as ./env/bin/python"


@dataclass(frozen=True)
class Library:
    """A library that is run elsewhere. wanted: the versions that its driver was written for.

    beside: the distributions that change what it makes as well.
    """

    name: str
    wanted: str
    beside: tuple[str, ...]


def requirements(library: Library, python: str) -> tuple[Requirement, ...]:
    """The interpreter and the library in it, each with what to do where it is missing."""
    from packaging.specifiers import SpecifierSet

    if not python:
        return (Requirement(f"an interpreter that has {library.name}", False, f"set python: {PATH_FIX}"),)
    path = Path(python)
    if not path.is_file() or not os.access(path, os.X_OK):
        what = "which cannot be run" if path.exists() else "which does not exist"
        return (Requirement(f"the interpreter {python}, {what}", False, PATH_FIX),)
    found = installed(python).get(library.name)
    fix = f"{python} -m pip install '{library.name}{library.wanted}'"
    name = f"{library.name} {library.wanted} in the environment of {python}"
    if found is None:
        return (Requirement(name, False, fix),)
    met = SpecifierSet(library.wanted).contains(found, prereleases=True)
    return (Requirement(f"{name} (found {found})", met, fix),)


def versions(library: Library, python: str) -> dict[str, str | None]:
    """The versions of an environment that enter a key; None for what it lacks, or without an interpreter."""
    found = installed(python) if python else {}
    return {
        library.name: found.get(library.name),
        **{f"{library.name} {name}": found.get(name) for name in ("python", *library.beside)},
    }


@functools.cache
def installed(python: str) -> Mapping[str, str]:
    """Version by distribution in the environment of an interpreter, and the minor release of `python`.

    Names are in the packaging standard's form. Empty for a path around which no environment lies. The path is
    taken as it is written: following the link of a virtual environment would leave it.
    """
    prefix = Path(os.path.normpath(python)).parent.parent
    folders = sorted({folder for pattern in SITE_PATTERNS for folder in prefix.glob(pattern)})
    found: dict[str, str] = {}
    for folder in folders:
        if release := re.fullmatch(r"python(3\.\d+)t?", folder.parent.name):
            found.setdefault("python", release[1])
    for each in importlib.metadata.distributions(path=[str(folder) for folder in folders]):
        # A half-removed distribution has a folder and no metadata.
        name = each.metadata["Name"] if each.metadata else None
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), each.version)
    return found
