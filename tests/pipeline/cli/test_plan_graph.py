"""The graph on the terminal: whoever follows its strokes finds the edges of the graph, and no others."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.cli.plan_graph import ASCII, DRAWN, Glyphs, glyphs_for, lines_of, show_graph
from ingot.pipeline.graph import Graph, Node
from ingot.pipeline.plan import Decision, Plan, State
from ingot.pipeline.predict import Prediction
from ingot.pipeline.report.layers import reduced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

JOINS, PASSES, ACROSS = "├┤┼┴╰╯+'", "│|─-", "─-"
ABOVE = "│|├┤┼┴╰╯+'"
Inputs = dict[str, list[str]]


@st.composite
def graphs(draw: st.DrawFn) -> Inputs:
    """Acyclic graphs of up to fourteen nodes, in topological order."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 14)))]
    return {
        name: draw(st.lists(st.sampled_from(names[:place]), unique=True, max_size=4)) if place else []
        for place, name in enumerate(names)
    }


def drawing(inputs: Mapping[str, Sequence[str]], glyphs: Glyphs) -> list[tuple[str, int]]:
    """Every line of the drawing, and where its node's mark stands in it."""
    rows = []
    for line in lines_of(inputs):
        before, mark, after = line.draw(glyphs, "@")
        rows.append((before + mark + after, len(before)))
    return rows


def followed(rows: Sequence[tuple[str, int]], names: Sequence[str]) -> Inputs:
    """The inputs of every node as an eye finds them: along the strokes that touch its mark."""
    holders: dict[int, str] = {}
    found: Inputs = {}
    for (text, place), name in zip(rows, names, strict=True):
        cells = {at: letter for at, letter in enumerate(text) if at % 2 == 0}
        holders = {at: who for at, who in holders.items() if cells.get(at, " ") in ABOVE or at == place}
        sources = [holders[place]] if place in holders else []
        for step in (-1, 1):
            at = place
            while text[at + step : at + step + 1] in tuple(ACROSS) and at + step >= 0:
                at += 2 * step
                if cells[at] in JOINS:
                    sources.append(holders[at])
                else:
                    assert cells[at] in PASSES
        found[name] = sources
        # What ends at this line has no stroke to the next one; a mark may be followed straight down.
        holders = {at: who for at, who in holders.items() if cells.get(at, " ") in "│|├┤┼+"}
        holders[place] = name
    return found


def edges(inputs: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    return {(source, name) for name, sources in inputs.items() for source in sources}


@pytest.mark.parametrize("glyphs", [DRAWN, ASCII])
@given(inputs=graphs())
def test_the_strokes_lead_to_each_input_of_a_node_and_to_nothing_else(glyphs: Glyphs, inputs: Inputs) -> None:
    assert edges(followed(drawing(inputs, glyphs), list(inputs))) == edges(inputs)


@given(graphs())
def test_what_a_reduced_graph_leaves_out_is_implied_by_what_it_keeps(inputs: Inputs) -> None:
    kept = reduced(inputs)

    def above(graph: Mapping[str, Sequence[str]], name: str) -> set[str]:
        return {*graph[name], *(far for source in graph[name] for far in above(graph, source))}

    for name in inputs:
        assert above(kept, name) == above(inputs, name)
        for source in kept[name]:
            assert not any(source in above(inputs, other) for other in kept[name])


def test_a_reduced_graph_leaves_out_what_it_does_not_know() -> None:
    assert reduced({"a": [], "b": ["a", "elsewhere"]}) == {"a": [], "b": ["a"]}


def test_a_target_is_drawn_in_the_columns_of_what_it_takes() -> None:
    inputs = {
        "load": [],
        "export@reference": ["load"],
        "reference": ["load"],
        "quantize": ["load"],
        "export": ["quantize"],
        "quality": ["export", "reference"],
        "cost": ["export", "export@reference"],
    }
    assert [text for text, _ in drawing(inputs, DRAWN)] == [
        "@",
        "├─@",
        "├─│─@",
        "@ │ │",
        "@ │ │",
        "├─│─@",
        "@─╯",
    ]
    assert [text for text, _ in drawing(inputs, ASCII)][-2:] == ["+-|-@", "@-'"]


def test_nothing_stands_right_below_an_end_that_it_does_not_come_from() -> None:
    inputs = {"load": [], "one": ["load"], "two": ["load"], "three": ["load"]}
    places = [place for _, place in drawing(inputs, DRAWN)]
    assert places[1] != places[2]


def planned(states: Mapping[str, State], inputs: Mapping[str, Mapping[str, str]]) -> Plan:
    nodes = {name: Node(name, "quantize.rtn", None, inputs.get(name, {})) for name in states}
    expected = Prediction(83.0, 20.0, 10, 458_000_000, 10, 1)
    decisions = {
        name: Decision(
            name, state, f"because of {name}", expected=expected if state in ("run", "pending") else None
        )
        for name, state in states.items()
    }
    return Plan(Graph(nodes, {}, notes=("it is a test",)), decisions)


PLAN = planned(
    {"a": State.HIT, "b": State.RUN, "c": State.PENDING, "d": State.BLOCKED},
    {"b": {"model": "a"}, "c": {"model": "b"}, "d": {"model": "a"}},
)


def test_a_line_says_state_name_cost_stage_and_what_the_strokes_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = click.unstyle(show_graph(PLAN, DRAWN, None)).splitlines()
    assert [line.split("  ")[0] for line in shown[:4]] == ["●", "├─○", "│ ◌", "✗"]
    assert [line.split()[-1] for line in (shown[0], shown[2])] == ["quantize.rtn"] * 2
    assert re.search(r"RUN +b +1\u202fmin 23\u202fs +458\u202fMB +quantize.rtn +because of b$", shown[1])
    assert shown[3].endswith("because of d")
    assert "1 hit, 1 run, 1 pending, 1 blocked; about" in shown[5]
    assert shown[-1] == "note: it is a test"


@pytest.mark.parametrize("width", [10, 30, 60, 200])
def test_no_line_of_the_graph_is_wider_than_the_terminal(width: int) -> None:
    cut, uncut = (
        click.unstyle(show_graph(PLAN, DRAWN, room)).split("\n\n")[0].splitlines() for room in (width, None)
    )
    for row, whole in zip(cut, uncut, strict=True):
        assert len(row) == min(width, len(whole))
        assert row.endswith("…") == (len(whole) > width)


def test_marks_and_states_have_the_colour_of_the_decision() -> None:
    rows = show_graph(PLAN, DRAWN, None).splitlines()
    for row, colour in zip(rows, (36, 32, 33, 31), strict=False):
        assert row.count(f"\x1b[{colour}m") == 2


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool, encoding: str) -> None:
        super().__init__()
        self._is_terminal, self._encoding = is_terminal, encoding

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return self._encoding


@pytest.mark.parametrize(
    ("stream", "glyphs"),
    [
        (Stream(True, "utf-8"), DRAWN),
        (Stream(True, "ascii"), ASCII),
        (Stream(True, "latin-1"), ASCII),
        (Stream(False, "utf-8"), ASCII),
    ],
)
def test_only_a_terminal_that_has_the_letters_is_drawn_on_with_them(stream: Stream, glyphs: Glyphs) -> None:
    assert glyphs_for(stream) is glyphs
