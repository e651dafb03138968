"""JSON objects read strictly, where the standard reader lets doubtful ones pass."""

from __future__ import annotations

import json


def parse_object(data: bytes) -> dict[str, object]:
    """The JSON object in ``data``, UTF-8.

    Raises ValueError, with a message that follows "it", when it is not JSON, not an object, nested too deep,
    holds NaN or an infinity, or says a key twice.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - the value is at fault, not the caller's type
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"has the key {key!r} twice")
            seen.add(key)
    return found


def _refuse(text: str) -> object:
    raise ValueError(f"holds {text}")
