"""The graph of a plan as a file: whole, self-contained, in light and dark, every node as it is planned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from ingot.artifacts.errors import RecipeError, StoreError
from ingot.artifacts.manifest import Action
from ingot.pipeline.graph import Graph, Node
from ingot.pipeline.plan import Decision, Plan, State
from ingot.pipeline.predict import Prediction
from ingot.pipeline.report.dag import Box, arranged
from ingot.pipeline.report.graph_file import render_graph, write_graph

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
CELL = "quantize@cpu-int4[scale_search=minmax,group_size=16,lm_head_bits=2]"


@pytest.fixture
def plan() -> Plan:
    """A hit, what runs after it, what waits for that, and what is blocked."""
    nodes = {
        "load": Node("load", "load", None),
        CELL: Node(CELL, "quantize.rtn", None, {"model": "load"}),
        "export@cpu-int4": Node("export@cpu-int4", "export.onnx", None, {"model": CELL}),
        "<b>&": Node("<b>&", "validate.cost", None, {"artifact": "load"}),
    }
    expected = Prediction(83.0, 20.0, 10, 458_000_000, 10, 1)
    made = Action("k", "load", {}, "o", {"seconds": 2.0, "max_rss_bytes": 41_500_000})
    decisions = (
        Decision("load", State.HIT, "in the store", action=made),
        Decision(CELL, State.RUN, "bits: 4 → 8", expected=expected),
        Decision("export@cpu-int4", State.PENDING, "waits", expected=expected),
        Decision("<b>&", State.BLOCKED, "this machine lacks <it>"),
    )
    return Plan(Graph(nodes, {}), {decision.node: decision for decision in decisions})


def words(group: ET.Element) -> list[str]:
    return [(text.text or "").replace("\u202f", " ") for text in group.iter(f"{SVG}text")]


def test_every_node_is_drawn_in_its_state_with_what_it_took_or_will_take(plan: Plan) -> None:
    drawing = ET.fromstring(render_graph(plan))
    found = {str(group.get("class")): group for group in drawing.iter(f"{SVG}g")}
    assert words(found["node hit"]) == ["load", "load", "2.0 s · 41.5 MB", "cached"]
    assert words(found["node run"]) == [
        "quantize@cpu-int4",
        "scale_search=minmax, group_size=16, lm_head_bits=2",
        "≈ 1 min 23 s · 458 MB",
        "runs",
    ]
    assert words(found["node pending"])[-1] == "waits"
    assert words(found["node blocked"]) == ["<b>&", "validate.cost", "", "blocked"]
    title = found["node blocked"].findtext(f"{SVG}title")
    assert title == "<b>& (validate.cost): this machine lacks <it>"
    assert len(list(drawing.iter(f"{SVG}path"))) == 3
    assert words(drawing)[0].startswith("1 hit, 1 run, 1 pending, 1 blocked; about 2 min 46 s")


def test_the_file_needs_nothing_else_and_knows_light_and_dark(plan: Plan) -> None:
    drawing = ET.fromstring(render_graph(plan))
    (style,) = [str(found.text) for found in drawing.iter(f"{SVG}style")]
    assert "var(" not in style
    assert "url(" not in style
    assert not [name for element in drawing.iter() for name in element.attrib if "href" in name]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    papers = [re.search(r"\.paper { fill: (#\w{6}); }", scheme) for scheme in (light, dark)]
    assert all(papers)
    assert papers[0][1] > "#f00000"  # type: ignore[index]
    assert papers[1][1] < "#200000"  # type: ignore[index]
    assert style.count("{") == style.count("}")


def test_nothing_is_drawn_outside_of_the_drawing_or_over_its_neighbour(plan: Plan) -> None:
    drawing = ET.fromstring(render_graph(plan))
    boxes = [rect for rect in drawing.iter(f"{SVG}rect") if rect.get("class") == "box"]
    assert max(float(box.get("x", "")) + float(box.get("width", "")) for box in boxes) < float(
        drawing.get("width", "")
    )
    assert max(float(box.get("y", "")) + float(box.get("height", "")) for box in boxes) < float(
        drawing.get("height", "")
    )


def test_what_does_not_fit_into_the_widest_box_is_cut_and_told_in_full() -> None:
    name = f"quantize@cpu-int4[{','.join(f'parameter_{number}=value' for number in range(9))}]"
    box = Box(name, "quantize.rtn", (), "run", "runs", None, "", f"{name} (quantize.rtn)")
    _, _, parts = arranged([box])
    group = ET.fromstring(parts[-1])
    texts = [str(text.text) for text in group.iter("text")]
    assert texts[1].endswith("…")
    assert group.findtext("title") == box.told


def test_a_drawing_is_written_whole_into_a_folder_that_is_made(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "new" / "graph.svg"
    write_graph(plan, path)
    assert path.read_text("utf-8") == render_graph(plan)
    assert [each.name for each in path.parent.iterdir()] == ["graph.svg"]


def test_a_notebook_shows_a_plan_as_its_graph(plan: Plan) -> None:
    assert plan._repr_svg_() == render_graph(plan)


def test_a_name_that_is_no_drawings_and_a_place_that_takes_no_file_are_refused(
    plan: Plan, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="not the name of a drawing"):
        write_graph(plan, tmp_path / "graph.png")
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(StoreError):
        write_graph(plan, tmp_path / "taken.svg")
    assert [each.name for each in tmp_path.iterdir()] == ["taken.svg"]
