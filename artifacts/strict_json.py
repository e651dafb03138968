"""JSON objects read strictly, where the standard reader lets doubtful ones pass."""

from __future__ import annotations

import json
import math

# The largest tokenizers of today come to about two million. A value of a few bytes takes 50 to 400 in memory.
MAX_VALUES = 4_000_000


def parse_object(data: bytes, most_values: int = MAX_VALUES) -> dict[str, object]:
    """The JSON object in ``data``, UTF-8.

    most_values: how many values it may hold, names not counted; as many are told from its punctuation, before
    memory is spent on them. Raises ValueError, with a message that follows "it", when it is not JSON, not an
    object, too large or nested too deep, holds a number that is not finite, or says a key twice.
    """
    if sum(map(data.count, (b"{", b"[", b","))) > most_values:
        raise ValueError(f"holds more than {most_values:,} values")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse
        )
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
                raise ValueError(f"has the key {key[:80]!r} twice")
            seen.add(key)
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"holds {text[:80]}, which no number of a computer reaches")
    return number


def _refuse(text: str) -> object:
    raise ValueError(f"holds {text}")
