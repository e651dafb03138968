"""Past runs: what their directories tell, whole, cut off or damaged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from ingot.pipeline.events import NodeFinished, NodeStarted, RunFinished, RunStarted
from ingot.pipeline.journal import Journal
from ingot.pipeline.past import past_run, past_runs, show_time

if TYPE_CHECKING:
    from ingot.artifacts.store import Store

RUN = "20261121T090000000Z-abcdef"
PLAN = {
    "nodes": [
        {"name": "load", "expected": None},
        {"name": "quantize@cpu", "expected": {"seconds": 1.5, "max_rss_bytes": 10, "runs": 2}},
    ],
    "targets": {"cpu": {}, "edge": {}},
    "aliases": {"quantize@edge": "quantize@cpu"},
}
STORY = (
    RunStarted(RUN, ("load", "quantize@cpu", "export@cpu")),
    NodeFinished("load", "hit", "in the store", "a" * 64, "b" * 64),
    NodeStarted("quantize@cpu", "quantize.rtn", "c" * 64, 2, 10, "log"),
    NodeFinished("quantize@cpu", "failed", "it broke", "c" * 64, seconds=2.0),
    NodeFinished("export@cpu", "blocked", "quantize@cpu failed"),
    RunFinished(RUN, "failed", 4.5),
)


def write(store: Store, *story: object, run: str = RUN) -> None:
    with Journal.create(store.run_dir(run), PLAN) as journal:
        for event in story:
            journal.write(event)  # type: ignore[arg-type]


def test_a_run_tells_how_long_it_took_and_how_every_node_ended(store: Store) -> None:
    write(store, *STORY)
    past = past_run(store, RUN)
    assert (past.run, past.state, past.seconds, past.targets) == (RUN, "failed", 4.5, ("cpu", "edge"))
    assert {name: node.event.state for name, node in past.nodes.items()} == {
        "load": "hit", "quantize@cpu": "failed", "export@cpu": "blocked",
    }  # fmt: skip
    assert [past.count(state) for state in ("hit", "built", "failed", "blocked")] == [1, 0, 1, 1]
    # A key that led to nothing is not what a later key is compared with.
    assert [node.key for node in past.nodes.values()] == ["a" * 64, None, None]
    assert past.expected == {"quantize@cpu": {"seconds": 1.5, "max_rss_bytes": 10, "runs": 2}}
    assert past.started[:2] == "20"


def test_a_node_is_found_by_its_other_names_too(store: Store) -> None:
    write(store, *STORY)
    past = past_run(store, RUN)
    assert past.node("quantize@edge") == past.node("quantize@cpu") == past.nodes["quantize@cpu"]
    assert past.node("quantize@far") is None


def test_the_verdict_is_that_of_the_report_else_how_the_run_ended(store: Store) -> None:
    write(store, *STORY)
    assert past_run(store, RUN).verdict == "failed"
    report = store.root / "runs" / RUN / "report"
    report.mkdir()
    (report / "gate.json").write_text(json.dumps({"verdict": "error"}))
    assert past_run(store, RUN).verdict == "error"
    (report / "gate.json").write_text("{")
    assert past_run(store, RUN).verdict == "failed"


@pytest.mark.parametrize("length", range(len(STORY)))
def test_a_run_that_was_cut_off_tells_what_it_had_done(store: Store, length: int) -> None:
    write(store, *STORY[:length])
    past = past_run(store, RUN)
    assert (past.state, past.seconds, past.verdict) == ("unfinished", None, "unfinished")
    assert len(past.nodes) == sum(isinstance(event, NodeFinished) for event in STORY[:length])


def test_a_run_that_did_all_its_work_and_was_killed_before_its_report_has_no_verdict(store: Store) -> None:
    write(store, STORY[0], RunFinished(RUN, "done", 1.0))
    assert past_run(store, RUN).verdict == "unfinished"


def test_a_damaged_run_and_one_without_a_journal_do_not_hide_the_others(store: Store) -> None:
    runs = [f"2026112{day}T090000000Z-abcdef" for day in range(1, 4)]
    for run in runs[:2]:
        write(store, *STORY, run=run)
    store.run_dir(runs[2])
    journal = store.root / "runs" / runs[1] / "events.jsonl"
    journal.write_text("{\n" + journal.read_text())
    (store.root / "runs" / runs[1] / "plan.json").write_text("[]")
    found = list(past_runs(store))
    assert [(past.run, past.state) for past in found] == [
        (runs[2], "unfinished"), (runs[1], "damaged"), (runs[0], "failed"),
    ]  # fmt: skip
    assert (found[1].plan, found[1].targets, found[1].expected, found[1].nodes) == ({}, (), {}, {})
    assert (found[0].started, show_time(found[0].started)) == ("", "\N{EN DASH}")


def test_a_moment_is_shown_to_the_second() -> None:
    assert show_time("2026-11-21T09:12:33.123Z") == "2026-11-21 09:12:33 UTC"
