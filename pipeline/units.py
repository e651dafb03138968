"""Quantities with units: how limits are read from a recipe, and how numbers are shown to a person."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
MISSING = "\N{EN DASH}"

# SI and binary prefixes as in IEC 80000-13: MB is 10^6 bytes, MiB is 2^20.
BYTES = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4}
SUFFIXES: Mapping[str, Mapping[str, float]] = {
    "bytes": BYTES,
    "ms": MILLISECONDS,
    "ppl": {"ppl": 1},
    "nat": {"nat": 1, "nats": 1},
}
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)")


def parse_share(value: float | str) -> float:
    """``2%`` or 0.02 as 0.02; raises ValueError for anything else."""
    number, suffix = _split(value)
    if suffix == "%":
        return number / 100
    if suffix:
        raise ValueError(f"{value!r} is not a share such as 2%")
    return number


def parse_quantity(value: float | str, unit: str) -> float:
    """``60MB`` in bytes, ``0.5s`` in ms, ``98%`` as a fraction; a plain number is in ``unit`` already.

    Raises ValueError for a suffix that does not measure what ``unit`` measures.
    """
    if unit == "fraction":
        return parse_share(value)
    number, suffix = _split(value)
    scales = SUFFIXES.get(unit, {unit: 1.0})
    if not suffix:
        return number
    if suffix not in scales:
        raise ValueError(f"{value!r} is not a quantity in {', '.join(scales)}")
    return number * scales[suffix]


def _split(value: float | str) -> tuple[float, str]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")  # noqa: TRY004 - one kind of error for a bad limit
    if not isinstance(value, str):
        number, suffix = float(value), ""
    else:
        match = NUMBER.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a number with a unit")
        number, suffix = float(match[1]), match[2].strip()
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number, suffix


def show(value: float | None, unit: str) -> str:
    """A quantity for a person: ``8.27 MB``, ``12.3 ms``, ``98.4 %``; an en dash when there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    if unit == "bytes":
        return show_bytes(value)
    if unit == "ms":
        return _with_unit(value / 1e3, "s") if abs(value) >= 1e4 else _with_unit(value, "ms")
    if unit == "fraction":
        return f"{_signed(f'{value * 100:.2f}')}{THIN}%"
    if unit == "ppl":
        return _signed(significant(value, 4))
    return _with_unit(value, unit)


def show_bytes(value: float) -> str:
    """Bytes with a decimal prefix and three significant digits: ``8.27 MB``."""
    for name in ("TB", "GB", "MB", "kB"):
        if abs(value) >= 0.9995 * BYTES[name]:
            return _with_unit(value / BYTES[name], name)
    return f"{_signed(f'{value:.0f}')}{THIN}B"


def show_delta(delta: float | None, unit: str, comparison: str) -> str:
    """A difference with its sign: ``+1.23 %`` when relative, ``−1.6 pp`` for fractions, else in the unit."""
    if delta is None or not math.isfinite(delta):
        return MISSING
    if comparison == "relative" or unit == "fraction":
        percent = f"{delta * 100:+{_places(delta * 100)}}"
        # What rounds to nothing has no sign.
        shown = percent[1:] if not percent.strip("+-0.") else _signed(percent)
        return f"{shown}{THIN}{'%' if comparison == 'relative' else 'pp'}"
    text = _signed(f"{delta:+.3g}")
    return f"{text}{THIN}{unit}" if unit else text


def show_interval(low: float | None, high: float | None, unit: str, comparison: str) -> str:
    """Two bounds of a difference, ``[−0.14, +0.43] %``; an en dash when there are none."""
    if low is None or high is None:
        return MISSING
    shown = [show_delta(bound, unit, comparison) for bound in (low, high)]
    numbers = ", ".join(bound.partition(THIN)[0] for bound in shown)
    return f"[{numbers}]{THIN}{shown[0].partition(THIN)[2]}".rstrip(THIN)


def show_seconds(seconds: float | None) -> str:
    """A duration: ``320 ms``, ``4.2 s``, ``3 min 05 s``, ``1 h 02 min``; an en dash when there is none."""
    if seconds is None:
        return MISSING
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f}{THIN}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60:02d}{THIN}s"
    return f"{whole // 3600}{THIN}h {whole % 3600 // 60:02d}{THIN}min"


def show_count(count: float | None) -> str:
    """A whole number in groups of three digits, ``3,145,728``; an en dash when there is none."""
    return MISSING if count is None else f"{count:,.0f}"


def _with_unit(value: float, unit: str) -> str:
    text = _signed(significant(value))
    return f"{text}{THIN}{unit}" if unit else text


def significant(value: float, digits: int = 3) -> str:
    """``value`` with that many significant digits, written without an exponent from 0.0001 up to 10^9."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits - 1}e}"
    # The exponent after rounding: 0.9996 has that of 1.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    places = max(0, digits - 1 - exponent)
    return f"{value:,.{places}f}"


def _places(percent: float) -> str:
    return ".0f" if abs(percent) >= 99.95 else ".1f" if abs(percent) >= 9.995 else ".2f"


def _signed(text: str) -> str:
    return text.replace("-", MINUS) if not re.search(r"e-", text) else text
