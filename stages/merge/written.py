"""A value of a recipe and its place, so that every fault can be named with its key, its file and its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...artifacts.errors import RecipeError, nearest
from ...artifacts.schema import unknown_name
from ...artifacts.yaml import KeyPath, Written


@dataclass(frozen=True)
class Place:
    """A value somewhere in a document. prefix: what the whole document is called in messages, if anything."""

    value: Any
    written: Written
    path: KeyPath = ()
    prefix: str = ""

    @staticmethod
    def root(written: Written, prefix: str = "") -> Place:
        """The whole document."""
        return Place(written.value, written, (), prefix)

    @property
    def label(self) -> str:
        """The key as a person would write it, such as ``models[1].parameters.weight``."""
        text = self.prefix
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
        return text

    @property
    def where(self) -> str | None:
        """``file:line``, as near as it is known."""
        return self.written.where(*self.path) or None

    def error(self, what: str, fix: str | None = None) -> RecipeError:
        """The error for this value: its key, then ``what``."""
        return RecipeError(f"{self.label} {what}" if self.label else what, where=self.where, fix=fix)

    def wrong(self, expected: str, fix: str | None = None) -> RecipeError:
        """The error for a value that is not ``expected``."""
        return RecipeError(f"{self.label}: {self.value!r} is not {expected}", where=self.where, fix=fix)

    def child(self, key: str | int) -> Place:
        """The value under a key, None where there is none."""
        value = self.value.get(key) if isinstance(key, str) else self.value[key]
        return Place(value, self.written, (*self.path, key), self.prefix)

    def mapping(self, *keys: str) -> Mapping[str, Any]:
        """The value as a mapping of no other keys than these, nothing being an empty one."""
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            raise self.wrong("a mapping", f"its keys are {', '.join(keys)}" if keys else None)
        for key in self.value if keys else ():
            if key not in keys:
                raise unknown_name(key, keys, prefix=self.label, where=self.child(key).where)
        return self.value

    def items(self) -> Iterator[Place]:
        """The values of a list."""
        if not isinstance(self.value, list | tuple):
            raise self.wrong("a list")
        return (self.child(index) for index in range(len(self.value)))

    def text(self) -> str:
        """The value as text that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong("text")
        return self.value

    def whole(self, least: int) -> int:
        """The value as a whole number of at least ``least``."""
        if type(self.value) is not int or self.value < least:
            raise self.wrong(f"a whole number from {least}")
        return self.value

    def flag(self) -> bool:
        """The value as true or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def choice(self, valid: tuple[str, ...]) -> str:
        """The value as one of a few words."""
        if self.value not in valid:
            guess = nearest(str(self.value), valid)
            raise self.wrong(f"one of {', '.join(valid)}", f"did you mean {guess}?" if guess else None)
        return str(self.value)
