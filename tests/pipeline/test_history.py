"""What a store remembers: which record counts as the last one, by node, by stage and by output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ingot.artifacts.digest import digest_json
from ingot.artifacts.manifest import Action
from ingot.pipeline.history import History

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
    assert history.last("quantize@cpu") == newest
    assert history.last("quantize@cpu", but_key=newest.key) == older
    assert history.last("never") is None


def test_a_damaged_record_is_passed_over(store: Store) -> None:
    kept, damaged = record(store, "n", 100, seed=1), record(store, "n", 200, seed=2)
    (store.root / "actions" / f"{damaged.key}.json").write_text("{")
    assert History(store).last("n") == kept


def test_actions_are_found_by_their_stage_newest_first_and_by_their_output(store: Store) -> None:
    first = record(store, "quantize@a", 100, stage="quantize.rtn", seed=1)
    second = record(store, "quantize@b", 200, stage="quantize.rtn", seed=2)
    record(store, "load", 300, stage="load")
    history = History(store)
    assert history.of_stage("quantize.rtn") == (second, first)
    assert history.of_stage("prune.toy") == ()
    assert history.maker(first.output) == first
    assert history.maker("0" * 64) is None
