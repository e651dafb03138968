"""gate.json: a report written down as plain JSON, and read back by the types of the fields."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ...artifacts.errors import CorruptError
from .model import RunReport

SCHEMA = "ingot/gate/v1"
T = TypeVar("T")


def render_json(report: RunReport) -> str:
    """gate.json: every field of the report, with its schema, verdict and exit code at the top."""
    head = {"schema": SCHEMA, "verdict": report.verdict, "exit_code": report.exit_code}
    return json.dumps({**head, **_fields(report)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(text: str, *, where: str = "gate.json") -> RunReport:
    """The inverse of :func:`render_json`; raises CorruptError for another shape."""
    try:
        value = json.loads(text)
        schema = value.pop("schema")
        report = _build(RunReport, {field.name: value[field.name] for field in dataclasses.fields(RunReport)})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptError(f"not a gate report ({type(error).__name__}: {error})", where=where) from None
    if schema != SCHEMA:
        raise CorruptError(f"gate report of schema {schema!r}, not {SCHEMA!r}", where=where)
    return report


def _fields(value: Any) -> dict[str, object]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _build(cls: type[T], value: Mapping[str, Any]) -> T:
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(item, hints[name]) for name, item in value.items()})


def _convert(value: Any, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, args[0])
    if origin is tuple:
        return tuple(_convert(item, args[0]) for item in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _convert(item, args[1]) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast("type", hint), value)
    return float(value) if hint is float else value
