"""`ingot plan` and `ingot explain` as a person meets them, on a tiny model that was built for real."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Workplace


def test_a_plan_tells_state_reason_and_counts_and_touches_nothing(workplace: Workplace) -> None:
    def everything() -> list[object]:
        return sorted(path for path in workplace.directory.rglob("*") if "stats" not in path.parts)

    before = everything()
    told = workplace.ingot("plan", "ingot.yaml", "--store", "st").out
    nodes = workplace.outputs()
    assert told.count("HIT ") == len(nodes)
    assert told.rstrip().endswith(f"{len(nodes)} hit")
    assert everything() == before


def test_in_an_empty_store_the_source_runs_and_the_rest_waits_with_reasons(workplace: Workplace) -> None:
    told = workplace.ingot("plan", "ingot.yaml", "--store", "empty").out
    assert "RUN      load" in told
    assert "not built before" in told
    assert "PENDING  quality@cpu-int8" in told
    assert "waits for export@cpu-int8 and reference" in told
    assert "asked for by profile cpu-int8 (cpu-int8.yaml:5)" in told
    assert "\n1 run, 12 pending; about" in told


def test_resolved_shows_every_value_and_who_gave_it(workplace: Workplace) -> None:
    line = (
        "plan",
        "ingot.yaml",
        "--store",
        "st",
        "--resolved",
        "--set",
        "quantize@cpu-int4.group_size=64",
    )
    told = workplace.ingot(*line, INGOT_SET__COST__PASSES="2").out
    assert "  group_size: 64  --set quantize@cpu-int4.group_size=64\n" in told
    assert "  passes: 2  INGOT_SET__COST__PASSES\n" in told
    assert "  repeats: 1  ingot.yaml:4\n" in told
    assert "  bits: 4  profile cpu-int4 (cpu-int4.yaml:5)\n" in told
    assert "  window: 256  default\n" in told
    assert "gates@cpu-fp32\n" in told
    assert "  parity_max_error.max: 0.0001  ingot.yaml:2\n" in told


def test_json_has_the_nodes_their_inputs_params_keys_and_targets(workplace: Workplace) -> None:
    plan = workplace.ingot("plan", "ingot.yaml", "--store", "st", "--json").json
    nodes = {node["name"]: node for node in plan["nodes"]}
    assert nodes["quality@cpu-int4"]["inputs"] == {
        "artifact": "export@cpu-int4",
        "reference": "reference",
    }
    assert nodes["quantize@cpu-int4"]["params"]["bits"] == 4
    assert all(len(node["key"]) == len(node["artifact"]) == 64 for node in nodes.values())
    assert set(plan["targets"]) == {"cpu-int8", "cpu-int4", "cpu-fp32"}
    assert plan["missing"] == []


def test_the_long_view_shows_all_that_is_known_of_each_node(workplace: Workplace) -> None:
    nodes = workplace.outputs()
    told = workplace.ingot("plan", "ingot.yaml", "--store", "st", "--long").out
    assert told.count("\n  key       ") == len(nodes)
    (run,) = workplace.store.runs()
    part = told[told.index("quantize@cpu-int4  (quantize.rtn)") :].split("\n\n")[0]
    assert "\n  takes     load as model\n" in part
    assert f"\n  artifact  {nodes['quantize@cpu-int4']} (" in part
    assert part.count(f" in the run {run}\n") == 1
    assert "\n  bits: 4  profile cpu-int4 (cpu-int4.yaml:5)" in part
    waiting = workplace.ingot("plan", "ingot.yaml", "--store", "empty", "--long").out
    assert waiting.count("\n  key       not known yet\n") == len(nodes) - 1
    assert waiting.count(" of memory at most, ") == len(nodes)


def test_the_graph_is_drawn_in_ascii_into_a_pipe_and_as_a_file(workplace: Workplace) -> None:
    line = ("plan", "ingot.yaml", "--store", "st", "--graph", "--svg", "made/graph.svg")
    told = workplace.ingot(*line).out
    assert told.isascii()
    assert [row.split()[-2] for row in told.splitlines()[:4]] == [
        "load", "export@reference", "reference", "quantize@cpu-int8",
    ]  # fmt: skip
    assert told.splitlines()[0].startswith("* ")
    assert told.rstrip().endswith("graph: made/graph.svg")
    drawing = (workplace.directory / "made" / "graph.svg").read_text("utf-8")
    assert drawing.count('class="node hit"') == len(workplace.outputs())
    as_json = workplace.ingot(*line[:4], "--json", "--svg", "graph.svg")
    assert len(as_json.json["nodes"]) == len(workplace.outputs())
    assert as_json.err == "graph: graph.svg\n"


def test_two_views_and_a_drawing_of_another_kind_are_refused(workplace: Workplace) -> None:
    line = ("plan", "ingot.yaml", "--store", "st")
    workplace.ingot(*line, "--graph", "--long").refuses("--graph and --long are two views", "ask for one")
    workplace.ingot(*line, "--svg", "graph.png").refuses("graph.png is not the name of a drawing", ".svg")
    assert not (workplace.directory / "graph.png").exists()


def test_explain_names_what_changed_old_and_new(workplace: Workplace) -> None:
    line = ("explain", "ingot.yaml", "quantize@cpu-int4", "--store", "st")
    assert workplace.ingot(*line).out == (
        "quantize@cpu-int4: hit — in the store\nno other build of a node of this name is in the store\n"
    )
    told = workplace.ingot(*line, "--set", "quantize@cpu-int4.group_size=64").out
    assert told.startswith("quantize@cpu-int4: run — group_size: 32 → 64\ncompared with the key ")
    (run,) = workplace.store.runs()
    assert re.search(rf"\n  built     20\S+ \S+ UTC by the run {run}, in ", told)
    assert told.endswith("\n\nparams.group_size\n  - 32\n  + 64\n")
    found = workplace.ingot(*line, "--set", "quantize@cpu-int4.group_size=64", "--json").json
    assert found["changes"] == [{"part": "params.group_size", "old": 32, "new": 64}]
    assert found["old"]["used"]["run"] == found["old"]["built"]["run"] == run
    assert found["old"]["key"] == workplace.plan()["quantize@cpu-int4"]["key"]


def test_explain_names_what_changed_above_and_the_run_it_is_asked_for(workplace: Workplace) -> None:
    line = ("explain", "ingot.yaml", "cost@cpu-int4", "--store", "st")
    told = workplace.ingot(*line, "--set", "quantize@cpu-int4.group_size=64").out
    assert "\ninputs.artifact  from export@cpu-int4\n  - " in told
    assert told.endswith(
        "\n  + not known yet\n\nwhich comes from\n  quantize@cpu-int4: group_size: 32 → 64\n"
    )
    (run,) = workplace.store.runs()
    same = workplace.ingot(*line, "--against", run[:20])
    assert same.out.endswith("\n\nnothing in its key changed\n")
    workplace.ingot(*line, "--against", "1999").refuses("no run '1999'", "ingot ls --runs")
    workplace.ingot("explain", "ingot.yaml", "a", "b", "--store", "st").refuses("not 3 names")
    for name in ("ingot.yaml", "load"):
        workplace.ingot("explain", name).refuses(f"{name} alone names no node", "ingot explain RECIPE NODE")


def test_explain_takes_the_texts_of_a_run_without_a_recipe(workplace: Workplace) -> None:
    model = (workplace.directory / "ingot.yaml").read_text().splitlines()[0].removeprefix("model: ")
    line = ("explain", "reference", "--model", model, "--target", "cpu-int8", "--store", "st", "--json")
    assert workplace.ingot(*line, "--evaluation", "held-out.txt").json["state"] == "hit"
    parts = [change["part"] for change in workplace.ingot(*line).json["changes"]]
    assert parts == ["data.evaluation"]
