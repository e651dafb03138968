"""The parts in which two keys differ, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SHORT = 12


@dataclass(frozen=True)
class Change:
    """One part of a key that differs. part: its path, such as `params.bits`; None: it was not there."""

    part: str
    old: object
    new: object

    @property
    def is_pending(self) -> bool:
        """Whether it is an input that is yet to be made, so that nobody can say what it will be."""
        return self.part.startswith("inputs.") and self.new is None

    def __str__(self) -> str:
        kind, _, name = self.part.partition(".")
        if kind == "source":
            return "the stage's source changed"
        if kind == "data":
            return f"the content of {name} changed"
        if kind == "inputs":
            return f"the input {name} is not known yet" if self.is_pending else f"the input {name} changed"
        label = f"{kind} {name}" if kind in ("tools", "platform") else name or kind
        return f"{label}: {short(self.old)} → {short(self.new)}"


def told(found: Iterable[Change]) -> str:
    """Changes in a line of words."""
    return ", ".join(str(change) for change in found) or "nothing changed"


def changes(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[Change, ...]:
    """The parts in which two preimages differ, parameters and data first."""
    before, after = dict(_flat(old)), dict(_flat(new))
    parts = sorted(before.keys() | after.keys(), key=_rank)
    return tuple(
        Change(part, before.get(part), after.get(part))
        for part in parts
        if before.get(part) != after.get(part)
    )


_ORDER = ("stage", "version", "params", "data", "inputs", "tools", "source")


def _rank(part: str) -> tuple[int, str]:
    kind = part.partition(".")[0]
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER)), part


def _flat(preimage: Mapping[str, object]) -> list[tuple[str, object]]:
    parts: list[tuple[str, object]] = []
    for name, value in preimage.items():
        if isinstance(value, Mapping):
            parts += [(f"{name}.{inner}", item) for inner, item in value.items()]
        else:
            parts.append((name, value))
    return parts


def short(value: object) -> str:
    """A value for a message: digests cut short, what is missing as a word."""
    if value is None:
        return "none"
    text = str(value)
    return text[:SHORT] if len(text) == 64 and not set(text) - set("0123456789abcdef") else text
