"""The source that a stage runs, as one digest: its module and every module of Ingot that it imports.

Imports are found in the text, without importing anything: planning a cached run must not load what the stages
load. The scan takes whatever looks like an import, also inside functions, but not what is only for type
checkers; a line too many rebuilds something once too often, and equal outputs stop the rebuild there.
"""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.digest import digest_bytes, digest_json

if TYPE_CHECKING:
    from collections.abc import Iterable

HOME = __name__.partition(".")[0]
SHORT = 12

_FROM = re.compile(
    r"^[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]*(\([^)]*\)|(?:[^\n\\]|\\\n)*)", re.MULTILINE
)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([^\n]+)", re.MULTILINE)
_FOR_CHECKERS = re.compile(r"^if TYPE_CHECKING:\n(?:(?:[ \t][^\n]*)?\n)*", re.MULTILINE)
_COMMENT = re.compile(r"#[^\n]*")


@functools.cache
def source_digest(module: str) -> str:
    """The digest of the source of ``module`` and of all that it imports from its own package and from Ingot.

    Raises ImportError when ``module`` is not a module of an imported package.
    """
    return digest_json({name: _digest(name) for name in sorted(closure(module))})


def module_digests(modules: Iterable[str]) -> dict[str, str]:
    """The digest, cut short, of every module that :func:`source_digest` of one of ``modules`` is made of.

    A key has one digest of them all; these tell which of them changed.
    """
    names = set[str]().union(*map(closure, modules))
    return {name: _digest(name)[:SHORT] for name in sorted(names)}


@functools.cache
def closure(module: str) -> frozenset[str]:
    """The names of ``module`` and of all modules that it imports from its own package and from Ingot.

    Packages above an imported module belong to it, since their `__init__` runs first; the root `ingot` does
    not, which holds nothing but the public names.
    """
    if find(module) is None:
        raise ImportError(f"there is no source of {module}")
    homes = {HOME, module.partition(".")[0]}
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name == HOME or name.partition(".")[0] not in homes or find(name) is None:
            continue
        found.add(name)
        waiting += imports(name)
        waiting += _parents(name)
    return frozenset(found)


@functools.cache
def imports(module: str) -> frozenset[str]:
    """The dotted names that a module's text may import: of a `from` import, also each name below it."""
    path = find(module)
    if path is None:
        return frozenset()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    text = _FOR_CHECKERS.sub("", _text(path).decode("utf-8"))
    found: set[str] = set()
    for dots, target, listed in _FROM.findall(text):
        base = _absolute(package, len(dots), target)
        names = _COMMENT.sub("", listed).strip("() \t\n").replace("\\", "")
        found.add(base)
        found.update(f"{base}.{name.split()[0]}" for name in names.split(",") if name.strip())
    for listed in _IMPORT.findall(text):
        found.update(name.split()[0] for name in _COMMENT.sub("", listed).split(",") if name.strip())
    return frozenset(found)


@functools.cache
def find(module: str) -> Path | None:
    """The source file of an imported module, or of a module below an imported package; None without one."""
    root, *parts = module.split(".")
    top = sys.modules.get(root)
    own_file = getattr(top, "__file__", None)
    if not parts and own_file is not None:
        return Path(own_file)
    for folder in getattr(top, "__path__", ()):
        stem = Path(folder, *parts)
        for path in (stem / "__init__.py", stem.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _absolute(package: str, dots: int, target: str) -> str:
    """The absolute name of ``target`` after ``dots`` dots, seen from ``package``."""
    if dots == 0:
        return target
    parts = package.split(".")
    above = parts[: len(parts) - dots + 1]
    return ".".join([*above, target] if target else above)


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


@functools.cache
def _text(path: Path) -> bytes:
    return path.read_bytes()


def _digest(module: str) -> str:
    path = find(module)
    return digest_bytes(_text(path)) if path is not None else ""
