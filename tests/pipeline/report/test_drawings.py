"""The drawings: scales, intervals against limits, and the layout of graphs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.report import plots
from ingot.pipeline.report.dag import boxes_of, dag
from ingot.pipeline.report.layers import GAP, place
from ingot.pipeline.report.svg import Fragment, Scale, padded, tag

if TYPE_CHECKING:
    from types import ModuleType

BOX = 60.0


def test_markup_is_escaped_once_and_finished_markup_never() -> None:
    inner = tag("b", "<&>")
    assert inner == "<b>&lt;&amp;&gt;</b>"
    assert tag("a", inner, "x<", title='"') == '<a title="&quot;"><b>&lt;&amp;&gt;</b>x&lt;</a>'
    assert isinstance(inner, Fragment)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_few_round_and_on_the_scale(low: float, span: float, count: int) -> None:
    scale = Scale(low, low + span, 0, 100)
    ticks = scale.ticks(count)
    assert len(ticks) <= count + 2
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(step == pytest.approx(steps[0], rel=1e-6) for step in steps)


def test_a_scale_of_equal_values_still_has_a_width() -> None:
    scale = padded([0.0, 0.0], 0, 100)
    assert scale(0.0) == pytest.approx(50)
    assert padded([5.0], 0, 100)(5.0) == pytest.approx(50)


def test_a_dot_inside_its_limit_is_drawn_left_of_it_and_a_dot_beyond_right_of_it(samples: ModuleType) -> None:
    for change, is_beyond in ((0.001, False), (0.09, True)):
        target = samples.target("cpu", change=change)
        metric = target.metrics["perplexity"]
        checks = [check for check in target.checks if check.metric == "perplexity"]
        limit = plots.delta_limit(metric, checks[0])
        assert limit == 0.02
        drawing = ET.fromstring(
            plots.interval(metric, checks, plots.interval_scale([metric], [limit]), "pass")
        )
        dot = next(circle for circle in drawing.iter("circle"))
        edge = next(stroke for stroke in drawing.iter("line") if stroke.get("class") == "limit")
        assert (float(dot.get("cx", "")) > float(edge.get("x1", ""))) is is_beyond


def test_limits_of_values_and_of_decreases_share_the_axis_of_deltas(samples: ModuleType) -> None:
    from ingot.pipeline.gate import evaluate

    cost = samples.cost_of({}, size=(1000, 500))
    quality = samples.quality_of(samples.windows())
    bounds = samples.bounds(
        size={"max": 800}, top1={"min": "90%"}, kl={"max": 0.5}, perplexity={"max_decrease": "1%"}
    )
    report = evaluate(bounds, quality, cost)
    found = {check.metric: plots.delta_limit(report.metrics[check.metric], check) for check in report.checks}
    assert found["size_bytes"] == pytest.approx(-0.2)
    assert found["top1_agreement"] == pytest.approx(-0.1)
    assert found["kl_divergence"] == 0.5
    assert found["perplexity"] == -0.01


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Acyclic graphs of up to twelve nodes, in topological order."""
    count = draw(st.integers(1, 12))
    return {
        f"n{i}": draw(st.lists(st.sampled_from([f"n{j}" for j in range(i)]), unique=True, max_size=3))
        if i
        else []
        for i in range(count)
    }


@given(graphs())
def test_edges_go_right_and_boxes_of_a_layer_never_touch(inputs: dict[str, list[str]]) -> None:
    placed = place(inputs, BOX)
    for name, sources in inputs.items():
        assert all(placed.depth[source] < placed.depth[name] for source in sources)
        for source in sources:
            path = placed.paths[source, name]
            assert len(path) == placed.depth[name] - placed.depth[source] + 1
            assert (path[0], path[-1]) == (placed.middle[source], placed.middle[name])
    for layer in set(placed.depth.values()):
        middles = sorted(placed.middle[name] for name, depth in placed.depth.items() if depth == layer)
        assert all(b - a >= BOX + GAP - 1e-6 for a, b in itertools.pairwise(middles))
        assert middles[0] >= BOX / 2 - 1e-6
        assert middles[-1] <= placed.height - BOX / 2 + 1e-6


@given(graphs())
def test_long_edges_pass_between_the_boxes(inputs: dict[str, list[str]]) -> None:
    placed = place(inputs, BOX)
    for (source, _), path in placed.paths.items():
        for offset, y in enumerate(path[1:-1], start=placed.depth[source] + 1):
            others = (placed.middle[name] for name, depth in placed.depth.items() if depth == offset)
            assert all(abs(y - middle) > BOX / 2 for middle in others)


def test_an_edge_that_other_edges_imply_is_not_drawn(samples: ModuleType) -> None:
    nodes = samples.nodes("cpu")
    cost = nodes[-1]
    more = dataclasses.replace(cost, inputs={**cost.inputs, "source": "load"})
    edges = [ET.fromstring(dag(boxes_of(drawn))).findall("path") for drawn in (nodes, (*nodes[:-1], more))]
    assert len(edges[0]) == len(edges[1]) == 8


def test_the_graph_names_every_node_with_its_time_and_state(samples: ModuleType) -> None:
    drawing = ET.fromstring(dag(boxes_of(samples.nodes("cpu"))))
    words = [element.text for element in drawing.iter("text")]
    for node in samples.nodes("cpu"):
        assert node.name in words
    assert "cached" in words
    assert any("9.8" in str(word) for word in words)
