"""The front of size and quality: against every pair of points, in the drawing, and in the tables."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.report import curves, figures
from ingot.pipeline.report.html import render_html
from ingot.pipeline.report.markdown import render_markdown
from ingot.pipeline.report.overview import overviews
from ingot.pipeline.report.pareto import front, on_front

from .test_overview import cell, mixed  # noqa: F401

if TYPE_CHECKING:
    from types import ModuleType

    from ingot.pipeline.report.model import TargetReport

points = st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 3)), max_size=12)


@given(points)
def test_the_front_holds_what_no_other_point_beats(found: list[tuple[int, int]]) -> None:
    def beats(other: tuple[int, int], one: tuple[int, int]) -> bool:
        return other != one and other[0] <= one[0] and other[1] <= one[1]

    expected = {place for place, one in enumerate(found) if not any(beats(other, one) for other in found)}
    assert set(front(found)) == expected
    sizes = [found[place][0] for place in front(found)]
    assert sizes == sorted(sizes)


def test_the_line_runs_along_the_front_and_other_names_are_faint() -> None:
    targets = [
        curves.Traded("small", "pass", 1e6, 0.04, None, None, is_front=True),
        curves.Traded("beaten", "pass", 2e6, 0.05, None, None),
        curves.Traded("large", "pass", 4e6, 0.01, None, None, is_front=True),
    ]
    drawing = ET.fromstring(curves.trade(targets, "Perplexity", "relative"))
    (path,) = [str(each.get("d")) for each in drawing.iter("path") if each.get("class") == "front"]
    stairs = re.fullmatch(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H340", path)
    assert stairs is not None
    left, upper, right, lower = map(float, stairs.groups())
    dots = sorted((float(each.get("cx", 0)), float(each.get("cy", 0))) for each in drawing.iter("circle"))
    np.testing.assert_allclose([dots[0], dots[2]], [(left, upper), (right, lower)], atol=0.06)
    assert upper < lower, "a smaller loss is farther down"
    faint = [str(each.text) for each in drawing.iter("text") if "faint" in str(each.get("class"))]
    assert faint == ["beaten"]


def test_of_very_many_the_front_alone_has_names() -> None:
    many = [curves.Traded(f"t{n}", "pass", 1e6 + n, 0.01 * n, None, None, is_front=n == 0) for n in range(30)]
    drawing = ET.fromstring(curves.trade(many, "Perplexity", "relative"))
    assert [str(each.text) for each in drawing.iter("text") if str(each.text).startswith("t")] == ["t0"]
    assert len(list(drawing.iter("circle"))) == 30


def test_the_cells_of_a_matrix_have_a_front_and_the_tables_mark_it(
    samples: ModuleType,
    mixed: dict[str, TargetReport],  # noqa: F811
) -> None:
    # Sizes 100, 300, 200, 900 and changes +20 %, +0.5 %, +0.1 %, 0: that of 300 is beaten by that of 200.
    (table,) = overviews(mixed)
    assert table.front == {"cpu[bits=2]", "cpu[bits=4]", "cpu[bits=8]"}
    report = replace(samples.report(), targets=mixed)
    lines = [
        line for line in render_markdown(report).splitlines() if line.startswith(("| 2", "| 3", "| 4", "| 8"))
    ]
    assert ["●" in line for line in lines] == [True, False, True, True]
    page = render_html(report)
    assert page.count("<td>●</td>") == 3
    assert 'class="front"' in page


def test_each_matrix_has_a_figure_of_its_own(samples: ModuleType) -> None:
    cells = [
        replace(cell(samples, bits, change, size), name=f"{name}[{bits}]", cell_of=name)
        for name in ("cpu", "arm")
        for bits, change, size in ((2, 0.2, 100), (4, 0.01, 200), (8, 0.0, 300))
    ]
    report = replace(samples.report(), targets={each.name: each for each in cells})
    titles = [figure.title for figure in figures.trades(report)]
    assert titles == ["cpu: perplexity against size", "arm: perplexity against size"]


def test_what_was_not_measured_is_on_no_front(samples: ModuleType) -> None:
    first, second = cell(samples, 2, 0.1, 100), cell(samples, 4, 0.2, 50)
    assert on_front([first, replace(second, metrics={})]) == {first.name}
