"""What a store remembers: which use counts as the last one, and records by node, by stage and by output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ingot.artifacts.digest import digest_json
from ingot.artifacts.manifest import Action
from ingot.pipeline.events import NodeFinished
from ingot.pipeline.history import History, Use
from ingot.pipeline.journal import Journal

if TYPE_CHECKING:
    from ingot.artifacts.store import Store


def record(store: Store, node: str, seconds: int, **preimage: object) -> Action:
    """An action of a node, whose record is ``seconds`` old in the order of the others."""
    with store.outbox() as outbox:
        outbox.write_text("output", node)
        artifact = outbox.publish("text", {})
    key = digest_json({"node": node, **preimage})
    action = store.record(Action(key, node, preimage, artifact.digest))
    os.utime(store.root / "actions" / f"{key}.json", (seconds, seconds))
    return action


def test_the_last_action_is_the_newest_of_its_node_with_another_key(store: Store) -> None:
    older, newest = record(store, "quantize@cpu", 100, seed=1), record(store, "quantize@cpu", 300, seed=2)
    record(store, "quantize@other", 400, seed=3)
    record(store, "quantize@cpu", 200, seed=4)
    os.utime(store.root / "actions" / f"{older.key}.json", (250, 250))
    history = History(store)
    assert history.last("quantize@cpu") == Use(newest)
    assert history.last("quantize@cpu", but_key=newest.key) == Use(older)
    assert history.last("never") is None


def test_a_damaged_record_is_passed_over(store: Store) -> None:
    kept, damaged = record(store, "n", 100, seed=1), record(store, "n", 200, seed=2)
    (store.root / "actions" / f"{damaged.key}.json").write_text("{")
    assert History(store).last("n") == Use(kept)


def test_actions_are_found_by_their_stage_newest_first_and_by_their_output(store: Store) -> None:
    first = record(store, "quantize@a", 100, stage="quantize.rtn", seed=1)
    second = record(store, "quantize@b", 200, stage="quantize.rtn", seed=2)
    record(store, "load", 300, stage="load")
    history = History(store)
    assert history.of_stage("quantize.rtn") == (second, first)
    assert history.of_stage("prune.toy") == ()
    assert history.maker(first.output) == first
    assert history.maker("0" * 64) is None


def test_runs_tell_what_was_used_before_records_do(store: Store) -> None:
    old, newest = record(store, "n", 100, seed=1), record(store, "n", 200, seed=2)
    for run, key, state in (("20261121T1-a", newest.key, "built"), ("20261121T2-b", old.key, "hit")):
        with Journal.create(store.run_dir(run), {}) as journal:
            journal.write(NodeFinished("n", state, "", key))
    with Journal.create(store.run_dir("20261121T3-c"), {}) as journal:
        journal.write(NodeFinished("n", "failed", "it broke", "f" * 64))
        journal.write(NodeFinished("other", "hit", "", newest.key))
    used = History(store).last("n")
    assert used is not None
    assert (used.action, used.run) == (old, "20261121T2-b")
    assert used.time.startswith("20")
    before = History(store).last("n", but_key=old.key)
    assert before is not None
    assert (before.action, before.run) == (newest, "20261121T1-a")


def test_a_run_whose_record_is_gone_is_passed_over(store: Store) -> None:
    kept = record(store, "n", 100, seed=1)
    for run, key in (("20261121T1-a", kept.key), ("20261121T2-b", "0" * 64)):
        with Journal.create(store.run_dir(run), {}) as journal:
            journal.write(NodeFinished("n", "built", "", key))
    used = History(store).last("n")
    assert used is not None
    assert (used.action, used.run) == (kept, "20261121T1-a")
