"""Limits as people write them, and numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline import units


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("60MB", "bytes", 60e6), ("1.5GiB", "bytes", 1.5 * 2**30), ("12 kB", "bytes", 12e3),
        (1000, "bytes", 1000), ("20ms", "ms", 20), ("0.5s", "ms", 500), ("250us", "ms", 0.25),
        ("98%", "fraction", 0.98), (0.98, "fraction", 0.98), ("25", "ppl", 25), (".05", "nat", 0.05),
        ("1e-3", "nat", 0.001), ("300 tokens/s", "tokens/s", 300),
    ],
)  # fmt: skip
def test_quantities_are_read_in_their_metrics_unit(text: float | str, unit: str, number: float) -> None:
    assert units.parse_quantity(text, unit) == pytest.approx(number)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("60ms", "bytes"), ("60MB", "ms"), ("2%", "bytes"), ("many", "bytes"), ("", "ppl"), (True, "ppl"),
        (None, "ppl"), (float("nan"), "ppl"), ("1e999", "ppl"), ("60 M B", "bytes"), ("5 furlongs", "nat"),
    ],
)  # fmt: skip
def test_quantities_of_another_kind_are_refused(text: object, unit: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller puts it into words
        units.parse_quantity(text, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), ("-70 %", -0.7), (0.02, 0.02), ("0", 0), (1, 1)])
def test_shares_are_read_with_and_without_a_percent_sign(text: float | str, share: float) -> None:
    assert units.parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1_420_000, "bytes", "1.42 MB"), (999_600, "bytes", "1.00 MB"), (12, "bytes", "12 B"),
        (2.4e9, "bytes", "2.40 GB"),
        (12.34, "ms", "12.3 ms"), (25_000, "ms", "25.0 s"), (0.984, "fraction", "98.40 %"),
        (20.0567, "ppl", "20.06"),
        (1234.5, "tokens/s", "1,234 tokens/s"), (0.0123, "nat", "0.0123 nat"), (None, "ms", "–"),
        (float("nan"), "ms", "–"), (1.5e-7, "", "1.50e-07"), (0.0, "nat", "0 nat"),
    ],
)  # fmt: skip
def test_numbers_are_shown_with_three_digits_and_their_unit(
    value: float | None, unit: str, shown: str
) -> None:
    assert units.show(value, unit).replace(units.THIN, " ") == shown


@pytest.mark.parametrize(
    ("delta", "unit", "comparison", "shown"),
    [
        (0.0123, "ppl", "relative", "+1.23 %"), (-0.828, "bytes", "relative", "−82.8 %"),
        (6.25, "bytes", "relative", "+625 %"),
        (-0.000_01, "ppl", "relative", "0.00 %"), (0.0, "fraction", "absolute", "0.00 pp"),
        (-0.016, "fraction", "absolute", "−1.60 pp"), (0.0079, "nat", "absolute", "+0.0079 nat"),
        (None, "ppl", "relative", "–"),
    ],
)  # fmt: skip
def test_differences_are_shown_with_their_sign(
    delta: float | None, unit: str, comparison: str, shown: str
) -> None:
    assert units.show_delta(delta, unit, comparison).replace(units.THIN, " ") == shown


def test_the_bounds_of_an_interval_share_a_unit() -> None:
    shown = units.show_interval(-0.0014, 0.0043, "ppl", "relative").replace(units.THIN, " ")
    assert shown == "[−0.14, +0.43] %"
    assert units.show_interval(None, 0.1, "ppl", "relative") == "–"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.32, "320 ms"),
        (4.21, "4.2 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3720, "1 h 02 min"),
        (None, "–"),
    ],
)
def test_durations_are_shown_in_the_units_of_people(seconds: float | None, shown: str) -> None:
    assert units.show_seconds(seconds).replace(units.THIN, " ") == shown


@given(st.floats(1e-3, 1e8))
def test_significant_digits_lose_less_than_a_hundredth(value: float) -> None:
    assert float(units.significant(value).replace(",", "")) == pytest.approx(value, rel=0.006)
