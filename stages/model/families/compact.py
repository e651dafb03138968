"""Layers that are stored smaller than their family says: factored into two maps, or shared between places.

Both are facts of a checkpoint, written under the key `ingot` of its config.json::

    "ingot": {"factored": {"model.layers.0.mlp.up_proj.weight": 64},
              "shared": {"model.layers.2.mlp": "model.layers.1.mlp"}}

A factored weight W [out, in] ≈ B·A is stored as `X.weight`, which is B [out, rank], and `X.first.weight`, A
[rank, in], both turned where the family stores [in, out]. A shared module's tensors are those of another;
under its own names stand empty ones, of shape [0]. So a loader that does not know of this meets a wrong shape
and fails, where it would fill in random numbers for a name that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import IntakeError
from .architecture import Architecture, Linear, Norm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "ingot"
FACTORED, SHARED = "factored", "shared"
WEIGHT = ".weight"


@dataclass(frozen=True)
class Compact:
    """What is stored smaller. factored: weight → rank.  shared: module → the one whose tensors it has."""

    factored: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.factored or self.shared)

    @staticmethod
    def of(config: Mapping[str, object], where: str) -> Compact:
        """What a config.json says; raises IntakeError for what it cannot mean."""
        written = config.get(KEY)
        if written is None:
            return Compact()
        if not isinstance(written, dict) or not {FACTORED, SHARED}.issuperset(written):
            what = f"{KEY} holds more than {FACTORED} and {SHARED}"
            raise IntakeError(what, where=where, fix="update Ingot: a later version wrote it")
        factored, shared = written.get(FACTORED, {}), written.get(SHARED, {})
        if not isinstance(factored, dict) or not all(
            type(rank) is int and rank > 0 for rank in factored.values()
        ):
            raise IntakeError(f"{KEY}.{FACTORED} does not give each weight a rank", where=where)
        if not isinstance(shared, dict) or not all(isinstance(owner, str) for owner in shared.values()):
            raise IntakeError(f"{KEY}.{SHARED} does not give each module another", where=where)
        found = Compact(factored, shared)
        for module, owner in shared.items():
            if found.resolved(owner + WEIGHT) != owner + WEIGHT:
                raise IntakeError(f"{KEY}.{SHARED}: {module} is {owner}, which is shared itself", where=where)
        return found

    def written(self) -> dict[str, object]:
        """What config.json holds under :data:`KEY`."""
        parts = {FACTORED: dict(self.factored), SHARED: dict(self.shared)}
        return {name: part for name, part in parts.items() if part}

    def config(self, config: Mapping[str, object]) -> dict[str, object]:
        """A config.json that says so."""
        rest = {key: value for key, value in config.items() if key != KEY}
        return {**rest, KEY: self.written()} if self else rest

    def resolved(self, name: str) -> str:
        """The name under which a tensor is stored: its own, unless it is part of a shared module."""
        end = len(name)
        while (end := name.rfind(".", 0, end)) > 0:
            owner = self.shared.get(name[:end])
            if owner is not None:
                return owner + name[end:]
        return name


def first_name(weight: str) -> str:
    """What the first of two maps is called that a weight is factored into."""
    return f"{weight.removesuffix(WEIGHT)}.first{WEIGHT}"


def compacted(model: Architecture, config: Mapping[str, object], where: str) -> Architecture:
    """The network that a config.json describes, with what it says of layers that are stored smaller.

    model: as the family reads it.  Raises IntakeError where it names a weight or a module that there is not.
    """
    compact = Compact.of(config, where)
    if not compact:
        return model
    _check_modules(model, compact, where)
    linears = {linear.name: linear for linear in (*model.linears, *model.gates)}

    def owner(linear: Linear) -> Linear:
        found = linears.get(compact.resolved(linear.name))
        if found is None or _form(found) != _form(linear):
            what = f"{KEY}.{SHARED}: {linear.name} has no weight like it at {compact.resolved(linear.name)}"
            raise IntakeError(what, where=where)
        return found

    shared: Architecture = _changed(model, owner, compact.resolved)
    known = {linear.name: linear for linear in shared.linears}
    for name, rank in compact.factored.items():
        whole = known.get(name)
        if whole is None:
            raise IntakeError(f"{KEY}.{FACTORED}: there is no weight {name}", where=where)
        if not saves(rank, whole):
            what = f"{KEY}.{FACTORED}: rank {rank} saves nothing of {name}"
            raise IntakeError(what, where=where, fix="the config is not one that Ingot wrote")

    def factored(linear: Linear) -> Linear:
        rank = compact.factored.get(linear.name)
        return linear if rank is None else _factored(linear, rank)

    found: Architecture = _changed(shared, factored, lambda name: name)
    empty = tuple(f"{module}.*" for module in compact.shared)
    return replace(found, ignored=(*found.ignored, *empty))


def saves(rank: int, linear: Linear) -> bool:
    """Whether two maps of that rank are smaller than the one."""
    return rank * (linear.in_features + linear.out_features) < linear.in_features * linear.out_features


def _form(linear: Linear) -> tuple[object, ...]:
    return linear.out_features, linear.in_features, linear.stored_in_out, linear.bias is None


def _changed(piece: Any, linear: Callable[[Linear], Linear], named: Callable[[str], str]) -> Any:
    """A network or a piece of it with other maps, and its norms' tensors under other names."""
    if isinstance(piece, Linear):
        return linear(piece)
    if isinstance(piece, Norm):
        return Norm(named(piece.weight), named(piece.bias) if piece.bias else None)
    if isinstance(piece, tuple):
        return tuple(_changed(each, linear, named) for each in piece)
    if not is_dataclass(piece) or isinstance(piece, type):
        return piece
    inner = {each.name: getattr(piece, each.name) for each in fields(piece)}
    changed = {name: _changed(value, linear, named) for name, value in inner.items()}
    return replace(piece, **{name: value for name, value in changed.items() if value is not inner[name]})


def _factored(linear: Linear, rank: int) -> Linear:
    first = replace(
        linear,
        name=first_name(linear.name),
        role=f"{linear.role}.first",
        out_features=rank,
        bias=None,
    )
    return replace(linear, in_features=rank, first=first)


def _check_modules(model: Architecture, compact: Compact, where: str) -> None:
    names = tuple(_names(model))
    for module in {*compact.shared, *compact.shared.values()}:
        if not any(name.startswith(f"{module}.") for name in names):
            raise IntakeError(f"{KEY}.{SHARED}: there is no module {module}", where=where)


def _names(piece: Any) -> Iterator[str]:
    """The weights of all maps and norms of a network, or of a piece of it."""
    if isinstance(piece, Linear):
        yield piece.name
    elif isinstance(piece, Norm):
        yield piece.weight
    elif isinstance(piece, tuple):
        for each in piece:
            yield from _names(each)
    elif is_dataclass(piece):
        for part in fields(piece):
            yield from _names(getattr(piece, part.name))
