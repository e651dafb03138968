"""Explaining: which key a node is compared with, who used it, and what lies behind a change."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts import schema
from ingot.artifacts.errors import InputError
from ingot.artifacts.files import remove_tree
from ingot.artifacts.manifest import Action
from ingot.pipeline.demo import MODEL
from ingot.pipeline.events import NodeFinished
from ingot.pipeline.explain import KeyDiff, explain
from ingot.pipeline.graph import Graph, Node
from ingot.pipeline.history import Use
from ingot.pipeline.journal import Journal
from ingot.pipeline.key_changes import Change
from ingot.pipeline.keys import key_of
from ingot.pipeline.plan import Planner, State
from ingot.pipeline.sources import module_digests
from ingot.stages import base
from ingot.targets.host import Host

if TYPE_CHECKING:
    from ingot.artifacts.store import Store

HOST = Host("linux", "x86_64", "a processor", ("avx2",), 8, 64 << 30)


def test_a_difference_says_all_of_its_changes() -> None:
    use = Use(Action("k", "n", {}, "o"))
    diff = KeyDiff("n", use, (Change("seed", 0, 1), Change("params.bits", 4, 8)))
    assert str(diff) == "seed: 0 → 1, bits: 4 → 8"
    assert str(KeyDiff("n", use, ())) == "nothing changed"
    assert str(KeyDiff("n", None, ())) == "not built before"


TRUNK = ("load", "quantize@cpu", "export@cpu")
RUNS = [f"2026112{day}T090000000Z-abcdef" for day in range(5)]


def node(name: str, stage: str, inputs: dict[str, str], **params: object) -> Node:
    return Node(name, stage, schema.build(base.get(stage).params, params), inputs)


def graph(bits: int = 4, opset: int = 23, seed: int = 0, **names: str) -> Graph:
    """load → quantize@cpu → export@cpu; names: others for them, such as ``quantize="quantize@edge"``."""
    load, quantize, export = (names.get(name.partition("@")[0], name) for name in TRUNK)
    nodes = (
        node(load, "load", {}, model=str(MODEL)),
        replace(node(quantize, "quantize.rtn", {"model": load}, bits=bits), seed=seed),
        node(export, "export.onnx", {"model": quantize}, opset=opset),
    )
    return Graph({node.name: node for node in nodes}, {}, facts={"parameters": 1})


def carry_out(
    store: Store, made: Graph, run: str, *, output: str = "", keep: bool = True, **written: object
) -> dict[str, str]:
    """Stands in for a run: every node gets an output, and the journal tells so; the digests by node.

    output: what every output says beside its key.  keep: False for a run whose journal is lost.  written:
    more of its plan.
    """
    planner, digests = Planner(store, HOST), {}
    with Journal.create(store.run_dir(run), written) as journal:
        for each in made.nodes.values():
            decision = planner.decide(each, {name: digests[source] for name, source in each.inputs.items()})
            if decision.artifact is None:
                with store.outbox() as outbox:
                    outbox.write_text("output", f"{decision.key} {output}")
                    artifact = outbox.publish(base.get(each.stage).output, {})
                observed = {"run": run, "finished": "2026-11-20T09:00:01.000Z", "seconds": 2.0}
                made_of = decision.preimage or {}
                store.record(Action(str(decision.key), each.name, made_of, artifact.digest, observed))
                state = "built"
            else:
                artifact, state = decision.artifact, "hit"
            digests[each.name] = artifact.digest
            journal.write(NodeFinished(each.name, state, "", decision.key, artifact.digest))
    if not keep:
        remove_tree(store.root / "runs" / run)
    return digests


def explained(store: Store, made: Graph, node: str, against: str | None = None) -> KeyDiff:
    return explain(Planner(store, HOST).plan(made), node, store, against)


def told(diff: KeyDiff) -> list[tuple[str, object, object]]:
    return [(change.part, change.old, change.new) for change in diff.changes]


def test_a_node_is_compared_with_the_key_that_was_last_used_not_with_the_one_last_built(store: Store) -> None:
    for run, bits in zip(RUNS, (4, 8, 4), strict=False):
        carry_out(store, graph(bits), run)
    found = explained(store, graph(2), "quantize@cpu")
    assert told(found) == [("params.bits", 4, 2)]
    assert found.old is not None
    assert (found.old.run, found.old.action.observed["run"]) == (RUNS[2], RUNS[0])
    assert Planner(store, HOST).plan(graph(2)).decisions["quantize@cpu"].reason == "bits: 4 → 2"


def test_what_is_a_hit_by_now_is_compared_with_the_other_key_before_it(store: Store) -> None:
    for run, bits in zip(RUNS, (2, 8, 8), strict=False):
        carry_out(store, graph(bits), run)
    found = explained(store, graph(8), "quantize@cpu")
    assert told(found) == [("params.bits", 2, 8)]
    assert found.old is not None
    assert found.old.run == RUNS[0]
    alone = explained(store, graph(8), "load")
    assert (alone.old, alone.changes) == (None, ())


def test_any_run_can_be_asked_for(store: Store) -> None:
    for run, bits in zip(RUNS, (2, 8, 4), strict=False):
        carry_out(store, graph(bits), run)
    found = explained(store, graph(4), "quantize@cpu", RUNS[0])
    assert told(found) == [("params.bits", 2, 4)]
    assert explained(store, graph(4), "quantize@cpu", RUNS[2]).changes == ()
    carry_out(store, graph(quantize="other"), RUNS[3])
    with pytest.raises(InputError, match=f"{RUNS[3]} left no output of quantize@cpu"):
        explained(store, graph(4), "quantize@cpu", RUNS[3])


def test_without_the_journals_of_runs_the_newest_record_counts(store: Store) -> None:
    for age, (run, bits) in enumerate(zip(RUNS, (2, 8), strict=False)):
        carry_out(store, graph(bits), run, keep=False)
        for action in store.actions():
            if action.observed["run"] == run:
                os.utime(store.root / "actions" / f"{action.key}.json", (age, age))
    found = explained(store, graph(4), "quantize@cpu")
    assert told(found) == [("params.bits", 8, 4)]
    assert found.old is not None
    assert found.old.run is None


def test_a_name_that_was_never_built_is_compared_with_the_likest_of_its_stage(store: Store) -> None:
    carry_out(store, graph(8, seed=7, quantize="quantize@far"), RUNS[0])
    carry_out(store, graph(8, quantize="quantize@near"), RUNS[1])
    found = explained(store, graph(4, quantize="quantize@edge"), "quantize@edge")
    assert found.old is not None
    assert found.old.action.node == "quantize@near"
    assert told(found) == [("params.bits", 8, 4)]


def test_an_output_that_got_lost_is_not_blamed_on_another_key(store: Store) -> None:
    carry_out(store, graph(8), RUNS[0])
    digests = carry_out(store, graph(4), RUNS[1])
    remove_tree(store.trees / digests["quantize@cpu"])
    found = explained(store, graph(4), "quantize@cpu")
    assert found.changes == ()
    assert found.old is not None
    assert found.old.action.output == digests["quantize@cpu"]


def test_a_changed_input_is_traced_to_what_changed_above(store: Store) -> None:
    carry_out(store, graph(4, 24), RUNS[0])
    waiting = explained(store, graph(8, 24), "export@cpu")
    assert [(cause.node, str(cause)) for cause in waiting.causes] == [("quantize@cpu", "bits: 4 → 8")]
    carry_out(store, graph(8, 24), RUNS[1])
    known = explained(store, graph(8, 24), "export@cpu")
    assert [change.part for change in known.changes] == ["inputs.model"]
    assert [(cause.node, str(cause)) for cause in known.causes] == [("quantize@cpu", "bits: 4 → 8")]
    # The node's own change is no cause of an input.
    own = explained(store, graph(8, 23), "export@cpu")
    assert (told(own), own.causes) == ([("params.opset", 24, 23)], ())


def test_an_equal_key_with_another_output_is_a_cause_too(store: Store) -> None:
    carry_out(store, graph(4), RUNS[0])
    action = next(action for action in store.actions() if action.node == "quantize@cpu")
    with store.outbox() as outbox:
        outbox.write_text("output", "this time it came out otherwise")
        other = outbox.publish("quantized-checkpoint", {})
    path = store.root / "actions" / f"{action.key}.json"
    kept = path.read_bytes()
    path.unlink()
    store.record(replace(action, output=other.digest))
    # The older record stays under another name, as that of a store which was merged in would.
    found = explained(store, graph(4), "export@cpu")
    assert [change.part for change in found.changes] == ["inputs.model"]
    assert [(cause.node, cause.old) for cause in found.causes] == [("quantize@cpu", None)]
    path.write_bytes(kept)
    assert explained(store, graph(4), "export@cpu").changes == ()


def test_of_a_changed_source_the_modules_are_named(store: Store) -> None:
    made = graph()
    stage = base.get("quantize.rtn").module
    then = module_digests([base.get(node.stage).module for node in made.nodes.values()])
    older = {**then, stage: "0" * 12}
    del older["ingot.stages.quantize.grid"]
    carry_out(store, made, RUNS[0], sources=older)
    # The record of an older text: the same preimage with another digest of the source.
    action = next(action for action in store.actions() if action.node == "quantize@cpu")
    preimage = {**action.preimage, "source": "f" * 64}
    old = replace(action, key=key_of(preimage), preimage=preimage)
    store.record(old)
    (store.root / "actions" / f"{action.key}.json").unlink()
    journal = store.root / "runs" / RUNS[0] / "events.jsonl"
    journal.write_text(journal.read_text().replace(action.key, old.key))
    found = explained(store, made, "quantize@cpu")
    assert [change.part for change in found.changes] == ["source"]
    assert found.sources == ("ingot.stages.quantize.grid", stage)


def test_a_blocked_node_has_no_changes_that_anybody_could_know(store: Store) -> None:
    carry_out(store, graph(4), RUNS[0])
    plan = Planner(store, HOST).plan(graph(8))
    blocked = replace(plan.decisions["export@cpu"], state=State.BLOCKED, preimage=None)
    found = explain(replace(plan, decisions={**plan.decisions, "export@cpu": blocked}), "export@cpu", store)
    assert found.changes == ()
    assert found.old is not None
