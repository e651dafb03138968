"""Curves of a sweep: where its dots stand, what they say, and when there are none."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline import measurements
from ingot.pipeline.report.sweep_lines import BOTTOM, LEFT, PLOT_HEIGHT, RIGHT, TOP, WIDTH, sweep_lines

if TYPE_CHECKING:
    from types import ModuleType


def drawn(cells: object, side: str = "value", base: str | None = None) -> ET.Element:
    found = sweep_lines(cells, side, "decode_ms", base)
    assert found is not None
    return ET.fromstring(found)


def words(drawing: ET.Element) -> list[str]:
    return [str(each.text) for each in drawing.iter("text")]


def places(drawing: ET.Element) -> list[tuple[float, float]]:
    return [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in drawing.iter("circle")]


def cell(batch: int, sequence: int, p50: float, p95: float) -> measurements.SweepCell:
    side = {"decode_ms": measurements.Quantiles(p50, p95, p95, 8)}
    return measurements.SweepCell(batch, sequence, {"value": side})


def test_a_line_a_sequence_and_a_dot_a_batch_with_its_number(samples: ModuleType) -> None:
    drawing = drawn(samples.sweep(batches=(1, 2, 4), sequences=(32, 128)))
    assert len(places(drawing)) == 6
    assert [word for word in words(drawing) if word in "124"] == ["1", "2", "4"] * 2
    strokes = {path.get("class") for path in drawing.iter("path")}
    assert strokes == {"curve artifact l0", "curve artifact l1"}
    # A step takes 1 ms a row: 1,000 tokens a second at any batch, 1.5 times as long at the 95th percentile.
    assert "batch 1: 1.00\u202fms, p95 1.50\u202fms, 1,000/s" in words(drawing)
    assert "128 tokens: batch 1 1.00\u202fms, p95 1.50\u202fms, 1,000 tokens/s; " in str(
        drawing.findtext("desc")
    )


def test_axes_are_of_ratios_so_that_doubling_is_as_far_everywhere() -> None:
    # Latency grows with the root of the batch, and so does throughput: every step is as far up as across.
    cells = [cell(batch, 32, batch**0.5, batch**0.5) for batch in (1, 4, 16)]
    (x1, y1), (x2, y2), (x3, y3) = places(drawn(cells))
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.02)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.02)
    assert x1 < x2
    assert y1 > y2


def test_a_whisker_reaches_the_95th_percentile() -> None:
    drawing = drawn([cell(1, 32, 1.0, 10.0), cell(2, 32, 1.0, 1.0)])
    tall = [
        line
        for line in drawing.iter("line")
        if line.get("class") == "whisker" and line.get("x1") == line.get("x2")
    ]
    spans = sorted(float(line.get("y1", "")) - float(line.get("y2", "")) for line in tall)
    decade = (PLOT_HEIGHT - BOTTOM - TOP) / math.log10(10 * 1.18**2)
    assert spans == [pytest.approx(0, abs=0.02), pytest.approx(decade, abs=0.02)]


def test_the_base_is_faint_behind(samples: ModuleType) -> None:
    drawing = drawn(samples.sweep(batches=(1, 2), sequences=(32,)), base="reference")
    assert [path.get("class") for path in drawing.iter("path")].count("curve context") == 1
    assert len(places(drawing)) == 2


def test_one_batch_is_no_curve(samples: ModuleType) -> None:
    assert sweep_lines(samples.sweep(batches=(4,), sequences=(32, 128)), "value", "decode_ms", None) is None
    assert sweep_lines(samples.sweep(), "nobody", "decode_ms", None) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 4096), st.floats(1e-3, 1e6), st.floats(1, 100)),
        min_size=2, max_size=9, unique_by=lambda point: point[0],
    )
)  # fmt: skip
def test_all_dots_lie_inside_whatever_was_measured(points: list[tuple[int, float, float]]) -> None:
    drawing = drawn([cell(batch, 64, p50, p50 * more) for batch, p50, more in points])
    for x, y in places(drawing):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= PLOT_HEIGHT - BOTTOM
    assert not re.search(r"nan|inf", ET.tostring(drawing, "unicode"))
