"""Why a node runs: the parts of its key that changed since the last time a node of its name was built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..artifacts.manifest import Action
from .history import History

if TYPE_CHECKING:
    from ..artifacts.store import Store
    from .plan import Plan

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
        return f"{label}: {_shown(self.old)} → {_shown(self.new)}"


@dataclass(frozen=True)
class KeyDiff:
    """What changed for a node. old: the action it is compared with; None: no node of its name was built."""

    node: str
    old: Action | None
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        if self.old is None:
            return "not built before"
        return ", ".join(str(change) for change in self.changes) or "nothing changed"


def explain(plan: Plan, node: str, store: Store) -> KeyDiff:
    """What made (or makes) a node run: its key against the newest other key of a node of its name.

    For a node whose inputs are not known yet, those are listed as not known. Raises RecipeError for a name
    that is not in the plan's graph.
    """
    decision = plan.decisions[plan.graph.node(node).name]
    old = History(store).last(decision.node, but_key=decision.key)
    return KeyDiff(decision.node, old, changes(old.preimage, decision.preimage or {}) if old else ())


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


def _shown(value: object) -> str:
    """A value for a message: digests cut short, what is missing as a word."""
    if value is None:
        return "none"
    text = str(value)
    return text[:SHORT] if len(text) == 64 and not set(text) - set("0123456789abcdef") else text
