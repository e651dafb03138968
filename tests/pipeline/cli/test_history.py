"""`ingot history` as a person meets it, after real runs of a tiny model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Workplace


def test_the_runs_are_listed_with_verdict_and_what_was_cached(workplace: Workplace) -> None:
    nodes = len(workplace.outputs())
    workplace.run()
    again, first = workplace.ingot("history", "--store", "st", "--json").json
    assert (first["verdict"], first["built"], first["hit"]) == ("pass", nodes, 0)
    assert (again["verdict"], again["built"], again["hit"]) == ("pass", 0, nodes)
    assert again["seconds"] < first["seconds"]
    assert first["targets"] == ["cpu-int8", "cpu-int4", "cpu-fp32"]
    told = workplace.ingot("history", "--store", "st", "--limit", "1").out.splitlines()
    assert len(told) == 2
    assert told[1].split()[0] == again["run"]
    assert told[1].endswith("cpu-int8, cpu-int4, cpu-fp32")


def test_a_run_shows_its_nodes_and_a_node_its_runs_against_predictions(workplace: Workplace) -> None:
    workplace.run("--set", "quantize@cpu-int4.group_size=64")
    newest, oldest = workplace.store.runs()
    told = workplace.ingot("history", newest, "--store", "st").out
    (line,) = [line for line in told.splitlines() if line.startswith("quantize@cpu-int4 ")]
    assert line.split()[1] == "built"
    assert line.endswith("  group_size: 32 → 64")
    assert "4 built (" in told
    assert "predicted from past runs: 4, which took " in told
    rows = workplace.ingot("history", "quantize@cpu-int4", "--store", "st", "--json").json
    assert [(row["run"], row["state"]) for row in rows] == [(newest, "built"), (oldest, "built")]
    assert (rows[0]["runs"], rows[1]["runs"]) == (1, 0)
    assert all(row["seconds"] > 0 and row["expected_seconds"] > 0 for row in rows)
    hits = workplace.ingot("history", "load", "--store", "st").out.splitlines()
    assert [line.split()[1] for line in hits[1:3]] == ["cached", "built"]


def test_what_is_neither_a_run_nor_a_node_is_refused_with_the_nearest(workplace: Workplace) -> None:
    ended = workplace.ingot("history", "quantise@cpu-int4", "--store", "st")
    ended.refuses("'quantise@cpu-int4' is neither a run", "did you mean quantize@cpu-int4?")
    workplace.ingot("history", "", "--store", "st").refuses("'' is neither", "ingot history")
    workplace.ingot("history", "--store", "nowhere").refuses("there is no store here", "nowhere")
    assert workplace.ingot("history", INGOT_STORE="new").out.startswith("there are no runs yet")


def test_a_run_that_ended_before_any_node_says_so(workplace: Workplace) -> None:
    killed = workplace.store.run_dir("20010101T000000000Z-abcdef")
    told = workplace.ingot("history", killed.name, "--store", "st").out
    assert told == f"no node of the run {killed.name} came to an end\n"
