"""Rows of history: what nodes took against what was predicted, in one run and run after run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.manifest import Action
from ingot.pipeline.events import NodeFinished
from ingot.pipeline.executions import Execution, of_node, of_run, ratios
from ingot.pipeline.journal import Journal
from ingot.pipeline.past import past_run, past_runs

if TYPE_CHECKING:
    from ingot.artifacts.store import Store

KEY = "a" * 64
FIRST, SECOND = "20261121T090000000Z-abcdef", "20261122T090000000Z-abcdef"
EXPECTED = {"seconds": 2.0, "cpu_seconds": 1.0, "max_rss_bytes": 900, "runs": 3}


@pytest.fixture
def runs(store: Store) -> Store:
    """One run that built a node and one that found it, each with what its plan said."""
    plan = {"nodes": [{"name": "n", "expected": EXPECTED}]}
    with Journal.create(store.run_dir(FIRST), plan) as journal:
        journal.write(NodeFinished("n", "built", "not built before", KEY, "b" * 64, 3.0, 2.5, 1000))
        journal.write(NodeFinished("m", "failed", "it broke", None, seconds=0.5))
    with Journal.create(store.run_dir(SECOND), {"nodes": [{"name": "n", "expected": None}]}) as journal:
        journal.write(NodeFinished("n", "hit", "in the store", KEY, "b" * 64))
    store.record(Action(KEY, "n", {}, "b" * 64, {"seconds": 3.0, "cpu_seconds": 2.5, "max_rss_bytes": 1000}))
    return store


def test_a_run_has_a_row_for_every_node_with_what_it_took_and_what_was_predicted(runs: Store) -> None:
    built, failed = of_run(past_run(runs, FIRST), runs)
    assert replace(built, time="") == Execution(
        FIRST, "n", "", "built", "not built before", KEY, 3.0, 2.5, 1000, 2.0, 900, 3
    )
    assert (failed.state, failed.seconds, failed.max_rss_bytes) == ("failed", 0.5, None)
    assert (failed.expected_seconds, failed.runs) == (None, None)


def test_a_hit_has_what_its_output_cost_when_it_was_made(runs: Store) -> None:
    (found,) = of_run(past_run(runs, SECOND), runs)
    assert (found.state, found.seconds, found.max_rss_bytes, found.expected_seconds) == (
        "hit", 3.0, 1000, None,
    )  # fmt: skip
    (runs.root / "actions" / f"{KEY}.json").unlink()
    (forgotten,) = of_run(past_run(runs, SECOND), runs)
    assert (forgotten.state, forgotten.seconds) == ("hit", None)


def test_a_node_has_a_row_for_every_run_it_was_in_newest_first(runs: Store) -> None:
    assert [(row.run, row.state) for row in of_node(past_runs(runs), "n", runs)] == [
        (SECOND, "hit"), (FIRST, "built"),
    ]  # fmt: skip
    assert [row.run for row in of_node(past_runs(runs), "m", runs)] == [FIRST]
    assert list(of_node(past_runs(runs), "never", runs)) == []


def test_only_what_past_runs_predicted_tells_how_well_they_do(runs: Store) -> None:
    (built,) = [row for row in of_node(past_runs(runs), "n", runs) if row.state == "built"]
    estimated = replace(built, runs=0)
    faster = replace(built, seconds=1.0)
    hit = replace(built, state="hit")
    assert ratios([built, estimated, faster, hit]) == [0.5, 1.5]
    assert ratios([]) == []
