"""Many targets at a glance: who is in which table, the smallest that passes, and the lines on a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ingot.pipeline.cli.overview import show_overview
from ingot.pipeline.report import model
from ingot.pipeline.report.html import render_html
from ingot.pipeline.report.markdown import render_markdown
from ingot.pipeline.report.overview import alone, overviews
from ingot.pipeline.units import show_bytes, show_seconds
from rich.console import Console

if TYPE_CHECKING:
    from types import ModuleType

    from ingot.pipeline.report.model import TargetReport


def cell(samples: ModuleType, bits: int, change: float, size_bytes: int) -> TargetReport:
    """A cell of `cpu` with that change of perplexity, of which 2 % are allowed, and that size."""
    target = samples.target(f"cpu[bits={bits}]", change=change, cell_of="cpu", cell={"bits": str(bits)})
    size = replace(target.metrics["size_bytes"], value=float(size_bytes))
    return replace(target, metrics={**target.metrics, "size_bytes": size}, delivery=None)


@pytest.fixture
def mixed(samples: ModuleType) -> dict[str, TargetReport]:
    """Four cells, of which the smallest breaks its limit, and a target of its own."""
    cells = [
        cell(samples, 2, 0.2, 100), cell(samples, 3, 0.005, 300),
        cell(samples, 4, 0.001, 200), cell(samples, 8, 0.0, 900),
    ]  # fmt: skip
    return {target.name: target for target in (*cells, samples.target("cpu-int8"))}


def test_cells_stand_in_a_table_of_their_matrix_and_a_few_targets_alone(
    mixed: dict[str, TargetReport],
) -> None:
    (table,) = overviews(mixed)
    assert (table.title, table.axes) == ("cpu", ("bits",))
    assert [table.place(target) for target in table.targets] == [("2",), ("3",), ("4",), ("8",)]
    assert [target.name for target in alone(mixed)] == ["cpu-int8"]


def test_more_than_a_few_targets_stand_in_one_table(samples: ModuleType) -> None:
    targets = {name: samples.target(name) for name in ("a", "b", "c", "d")}
    (table,) = overviews(targets)
    assert (table.title, table.axes, alone(targets)) == ("", ("target",), ())
    assert table.place(targets["b"]) == ("b",)
    few = {name: targets[name] for name in ("a", "b", "c")}
    assert overviews(few) == ()
    assert alone(few) == tuple(few.values())


def test_the_smallest_that_passes_is_not_the_smallest_of_all(mixed: dict[str, TargetReport]) -> None:
    (table,) = overviews(mixed)
    assert table.smallest is not None
    assert table.smallest.name == "cpu[bits=4]"
    assert replace(table, targets=table.targets[:1]).smallest is None


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_dozen_lines_fit_any_terminal_and_name_what_can_be_chosen(
    mixed: dict[str, TargetReport], width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (table,) = overviews(mixed)
    out = io.StringIO()
    show_overview(table, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[1] for line in lines if line.strip().startswith(("✓", "✗"))] == ["2", "3", "4", "8"]
    printed = capsys.readouterr().out
    assert "cpu[bits=2]: Perplexity" in printed
    assert "--select 'cpu[bits=4]'" in printed


@pytest.fixture
def predicted(mixed: dict[str, TargetReport], samples: ModuleType) -> model.RunReport:
    """A run of those targets in which one node ran as predicted from three runs, one was estimated."""
    report = samples.report(*mixed.values())
    past, stated = (model.Expected(0.444, 0.333, 777_000_000, 3_330_000, runs) for runs in (3, 0))
    first, second, *others = report.nodes
    nodes = (replace(first, expected=past), replace(second, expected=stated), *others)
    return replace(report, nodes=nodes)


def test_the_page_and_the_markdown_hold_predicted_against_actual(predicted: model.RunReport) -> None:
    page, text = render_html(predicted), render_markdown(predicted)
    assert "1 from past runs of the stage and 1 estimated without one" in page
    rows = re.findall(r"<tr><th scope=\"row\">(load|export@reference)</th>.*?</tr>", page)
    assert rows == ["load", "export@reference"]
    for form in (page, text):
        for shown in (show_seconds(0.444), show_seconds(0.333), show_bytes(777e6), show_bytes(3.33e6)):
            assert form.count(shown) == 2
    line = next(line for line in text.splitlines() if line.startswith("| load |"))
    assert len(line.split("|")) == len(("", "Node", "State", *range(8), ""))


def test_a_run_of_hits_has_no_predictions(predicted: model.RunReport) -> None:
    cached = replace(predicted, nodes=tuple(replace(node, expected=None) for node in predicted.nodes))
    assert "Predictions are" not in render_html(cached)
    assert "predicted" not in render_markdown(cached)


def test_cells_are_one_table_on_the_page_and_in_markdown(predicted: model.RunReport) -> None:
    page, text = render_html(predicted), render_markdown(predicted)
    assert "The targets of the table, one by one" in page
    assert page.index("cpu-int8</h2>") < page.index("one by one") < page.index("cpu[bits=2]</h2>")
    assert "--select &#39;cpu[bits=3]&#39;" in page or "--select 'cpu[bits=3]'" in page
    assert text.count("###") == 2, "one heading for the matrix, one for the other target"
    assert "--select 'cpu[bits=4]'" in text
