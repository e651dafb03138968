"""YAML as plain values with the line of every key: strict, bounded, and unable to build objects.

Only events of PyYAML's safe parser are used; values are made here, after YAML 1.2's core schema (so
``on`` and ``12:30`` are text, and ``1e-3`` is a number). Refused: tags, duplicate keys, keys that are not
text, several documents, and files, alias counts, depths or value counts beyond the caps below (an alias bomb
is a few bytes that stand for billions of values).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from .errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000
MAX_ALIASES = 100
MAX_DEPTH = 40
MAX_DIGITS = 64

KeyPath = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A document's value and where each part of it was written.

    value: None, bool, int, float, str, list or dict with text keys.  source: how the file is called in
    messages.  lines: key path → line, counted from 1; a list item's path ends in its index.
    """

    value: object
    source: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def where(self, *path: str | int) -> str:
        """``file:line`` of the key at ``path``, or of the nearest key that encloses it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return f"{self.source}:{self.lines[path[:length]]}"
        return self.source


def read_yaml(path: Path, source: str | None = None) -> Written:
    """The YAML document in a file; source: its name in messages, the file's name when None.

    Raises RecipeError for a file that is missing, unreadable, too large or not plain YAML.
    """
    source = source or path.name
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"there is no file {path}") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path} is larger than {MAX_BYTES} bytes", fix="a recipe is a few lines of YAML")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8 text (byte {error.start})"
        raise RecipeError(what, fix="save the file in UTF-8") from None
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str) -> Written:
    """The one document in ``text``; an empty one is None. Raises RecipeError with the line of the fault."""
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{source} is larger than {MAX_BYTES} bytes")
    try:
        loader = _LOADER(text)
        try:
            return _Reader(loader, source).document()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise RecipeError(f"not valid YAML: {error.problem or error.context}", where=where) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"not valid YAML: {' '.join(str(error).split())}", where=source) from None


def scalar(text: str) -> object:
    """An unquoted scalar by YAML 1.2's core schema: null, a truth value, a finite number, or text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text, 10 if text.lstrip("+-").isdigit() else 0)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


class _Reader:
    """Turns parser events into values, counting as it goes."""

    def __init__(self, loader: Any, source: str) -> None:
        self._loader = loader
        self._source = source
        self._lines: dict[KeyPath, int] = {}
        self._anchors: dict[str, Any] = {}
        self._values = 0
        self._aliases = 0

    def document(self) -> Written:
        loader = self._loader
        loader.get_event()
        if loader.check_event(yaml.StreamEndEvent):
            return Written(None, self._source)
        loader.get_event()
        value = self._value(())
        loader.get_event()
        if not loader.check_event(yaml.StreamEndEvent):
            raise self._error(loader.peek_event(), "there is a second document", "a file holds one")
        return Written(value, self._source, self._lines)

    def _value(self, path: KeyPath) -> object:
        event = self._loader.get_event()
        self._count(event, path)
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        if event.tag is not None and event.tag != "!":
            raise self._error(event, f"the tag {event.tag!r} is not allowed", "write plain values")
        if isinstance(event, yaml.ScalarEvent):
            value: object = scalar(event.value) if event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path)
        else:
            value = self._mapping(path)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _sequence(self, path: KeyPath) -> list[object]:
        items: list[object] = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            place = (*path, len(items))
            self._lines[place] = self._loader.peek_event().start_mark.line + 1
            items.append(self._value(place))
        self._loader.get_event()
        return items

    def _mapping(self, path: KeyPath) -> dict[str, object]:
        items: dict[str, object] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            event = self._loader.get_event()
            line = event.start_mark.line + 1
            self._count(event, path)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key is not plain text", None)
            key = event.value
            place = (*path, key)
            if key in items:
                first = self._lines[place]
                what = f"the key {_dotted(place)!r} is written twice (first in line {first})"
                raise self._error(event, what, None)
            self._lines[place] = line
            items[key] = self._value(place)
        self._loader.get_event()
        return items

    def _aliased(self, event: Any) -> object:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise self._error(event, f"more than {MAX_ALIASES} aliases", None)
        if event.anchor not in self._anchors:
            raise self._error(event, f"the alias *{event.anchor} stands before or inside its anchor", None)
        value = self._anchors[event.anchor]
        self._values += _size(value, MAX_VALUES)
        self._count(event, ())
        return value

    def _count(self, event: Any, path: KeyPath) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(event, f"more than {MAX_VALUES} values", None)
        if len(path) > MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH}", None)

    def _error(self, event: Any, what: str, fix: str | None) -> RecipeError:
        return RecipeError(what, where=f"{self._source}:{event.start_mark.line + 1}", fix=fix)


def _size(value: object, limit: int) -> int:
    """How many values ``value`` holds, counted up to just past ``limit``."""
    count, waiting = 0, [value]
    while waiting and count <= limit:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return count


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
