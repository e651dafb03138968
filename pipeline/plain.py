"""Frozen dataclasses as plain JSON values, and back by the types of their fields."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses and mappings become dicts, tuples lists; the rest stays."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(cls: type[T], value: Mapping[str, Any]) -> T:
    """A ``cls`` from what :func:`to_plain` made of one; else KeyError, TypeError or ValueError.

    A field that an older version did not have takes its default.
    """
    hints, optional = _hints(cast("Any", cls)), _optional(cast("Any", cls))
    wanted = (name for name in hints if name in value or name not in optional)
    return cls(**{name: _convert(value[name], hints[name]) for name in wanted})


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def _optional(cls: Any) -> frozenset[str]:
    missing = dataclasses.MISSING
    return frozenset(
        field.name
        for field in dataclasses.fields(cls)
        if field.default is not missing or field.default_factory is not missing
    )


def _convert(value: Any, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, args[0])
    if origin is tuple:
        return tuple(_convert(item, args[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _convert(item, args[1]) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_plain(cast("type", hint), value)
    return float(value) if hint is float else value
