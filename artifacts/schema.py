"""Typed, documented parameters: frozen dataclasses built from plain mappings, strictly.

A parameter class is a frozen dataclass whose fields are made with :func:`param`. :func:`build` turns a
mapping (from YAML, JSON or the command line) into one, refusing unknown names (with the nearest valid one),
wrong types, and values out of range, with the place where the value was written.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from .errors import RecipeError, nearest

T = TypeVar("T")
Locate = Callable[[str], str | None]


def nowhere(_key: str) -> str | None:
    """A locator for values that were not written in any file."""
    return None


def param(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    choices: Sequence[object] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    is_file: bool = False,
    is_folder: bool = False,
    in_key: bool = True,
    written: str | None = None,
    internal: bool = False,
) -> Any:
    """A dataclass field with its meaning and its bounds.

    doc: what it is and, in a few words, why the default is what it is.  is_file: the value is the path of a
    data file, which enters a stage's key by content.  is_folder: that of a folder to write to.
    in_key: False for what cannot change the output.
    written: the name that people write, where Python does not take it as a field's (`from`).
    internal: filled in from other parameters, so that nobody writes it, and no page lists it.
    """
    metadata = {
        "doc": doc, "choices": choices, "minimum": minimum, "maximum": maximum,
        "is_file": is_file, "is_folder": is_folder, "in_key": in_key, "written": written,
        "internal": internal,
    }  # fmt: skip
    if isinstance(default, list | dict):
        raise TypeError("use a tuple or a mapping proxy as a default: parameters are frozen")
    return dataclasses.field(default=default, metadata=metadata, kw_only=True)


def fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a parameter class by the names that people write, in written order."""
    return {field.metadata.get("written") or field.name: field for field in dataclasses.fields(cls)}


def build(cls: type[T], values: Mapping[str, object], *, prefix: str = "", locate: Locate = nowhere) -> T:
    """A ``cls`` from a mapping.

    prefix: how the mapping is called in messages, such as ``quantize``.  locate: where a key was written,
    such as ``ingot.yaml:14``.  Raises RecipeError for unknown names, wrong types, values out of range and
    missing values.
    """
    known = fields(cls)
    hints = _hints(cls)  # type: ignore[arg-type] # every class can be hashed
    for name in values:
        if name not in known:
            raise unknown_name(name, known, prefix=prefix, where=locate(name))
    built: dict[str, object] = {}
    for name, field in known.items():
        label = f"{prefix}.{name}" if prefix else name
        if name in values:
            built[field.name] = check(values[name], hints[field.name], field.metadata, label, locate(name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{label} is missing", where=locate(name), fix=str(field.metadata["doc"]))
    return cls(**built)


def takes_many(cls: type, name: str) -> bool:
    """Whether the field called ``name`` of a parameter class holds several values."""
    return typing.get_origin(_hints(cls)[name]) is tuple


@functools.cache
def _hints(cls: type) -> Mapping[str, Any]:
    """The types of a parameter class's fields; it is built once a node, and reading them is slow."""
    return typing.get_type_hints(cls)


def unknown_name(name: str, valid: typing.Iterable[str], *, prefix: str, where: str | None) -> RecipeError:
    """The error for a key that does not exist, with the nearest one that does."""
    names = sorted(valid)
    guess = nearest(name, names)
    label = f"{prefix}.{name}" if prefix else name
    fix = f"did you mean {guess}?" if guess else f"valid names are {', '.join(names) or 'none'}"
    return RecipeError(f"{label} is not a known name", where=where, fix=fix)


def check(value: object, hint: Any, metadata: Mapping[str, Any], label: str, where: str | None) -> object:
    """``value`` as the type ``hint``, or a RecipeError that names the label and the place."""
    fix = str(metadata.get("doc", ""))
    try:
        result = convert(value, hint)
    except (TypeError, ValueError):
        raise RecipeError(f"{label}: {value!r} is not {describe(hint)}", where=where, fix=fix) from None
    choices = metadata.get("choices")
    if choices is not None and result not in choices and result is not None:
        listed = ", ".join(str(choice) for choice in choices)
        guess = nearest(str(result), [str(choice) for choice in choices])
        raise RecipeError(
            f"{label}: {result!r} is not one of {listed}",
            where=where,
            fix=f"did you mean {guess}?" if guess else None,
        )
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if isinstance(result, int | float) and not isinstance(result, bool):
        if low is not None and result < low:
            raise RecipeError(f"{label}: {result} is below {low}", where=where, fix=fix)
        if high is not None and result > high:
            raise RecipeError(f"{label}: {result} is above {high}", where=where, fix=fix)
    return result


def convert(value: object, hint: Any) -> object:
    """``value`` as ``hint``: exact, save that whole numbers pass as floats and lists as tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (typing.Union, types.UnionType):
        return convert_union(value, args)
    if origin is typing.Literal:
        if value in args and type(value) in {type(arg) for arg in args}:
            return value
        raise ValueError
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(convert(item, args[0]) for item in value)
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise TypeError
        return {convert(key, args[0]): convert(item, args[1]) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and issubclass(hint, PurePath) and isinstance(value, str):
        return hint(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise TypeError
    return value


def convert_union(value: object, args: Sequence[Any]) -> object:
    """``value`` as the first member of a union that takes it."""
    for arg in args:
        try:
            return None if arg is type(None) and value is None else convert(value, arg)
        except (TypeError, ValueError):
            continue
    raise TypeError


def describe(hint: Any) -> str:
    """A type in a person's words, for messages and for `ingot stages NAME`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if arg is type(None) else describe(arg) for arg in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin is tuple:
        return f"a list of {describe(args[0])}"
    if origin is not None:
        return "a mapping"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, "a path" if isinstance(hint, type) and issubclass(hint, PurePath) else "a value")


def to_plain(params: object, *, key_only: bool = False) -> dict[str, object]:
    """A parameter object as JSON values; with ``key_only``, without the fields that stay out of keys."""
    out: dict[str, object] = {}
    for name, field in fields(type(params)).items():
        if key_only and not field.metadata.get("in_key", True):
            continue
        out[name] = plain(getattr(params, field.name))
    return out


def plain(value: object) -> object:
    """One value as JSON: tuples become lists, paths text."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, PurePath) else value
