"""Plans: what hits, what runs, what waits, what is blocked, and the reason for each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import DataError, RequirementError
from ingot.artifacts.manifest import Action
from ingot.pipeline import keys, requirements
from ingot.pipeline.assemble import graph_of
from ingot.pipeline.demo import MODEL
from ingot.pipeline.explain import explain
from ingot.pipeline.layers import command_line
from ingot.pipeline.plan import Plan, Planner, State, make_plan, to_json
from ingot.pipeline.recipe import load_recipe
from ingot.stages import base
from ingot.stages.base import Requirement
from ingot.targets.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.store import Store
    from ingot.pipeline.graph import Graph

HOST = Host("linux", "x86_64", "a processor", ("avx2", "avx512_vnni"), 8, 64 << 30)
TEXT = "The river ran past the old mill. " * 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe for two targets beside its checkpoint (the bundled one) and its text."""
    (tmp_path / "ckpt").symlink_to(MODEL)
    (tmp_path / "held-out.txt").write_text(TEXT)
    (tmp_path / "ingot.yaml").write_text(
        "model: ckpt\ntargets: [cpu-int8, cpu-int4]\ndata: {evaluation: held-out.txt}\n"
    )
    return tmp_path


def graph(folder: Path, *sets: str) -> Graph:
    return graph_of(load_recipe(folder / "ingot.yaml", command_line(sets)), HOST)


def plan(folder: Path, store: Store, *sets: str, host: Host = HOST) -> Plan:
    return make_plan(graph(folder, *sets), store, host)


def pretend(found: Graph, store: Store, host: Host = HOST, outputs: str = "", **texts: str) -> list[str]:
    """Stands in for an execution: gives every node that has to run an output; the names of those nodes.

    outputs: put into each output; texts: by node name (``@`` as ``_``), the whole content instead.
    """
    planner, made = Planner(store, host), {}
    planned, ran = planner.plan(found), []
    for name, node in found.nodes.items():
        inputs = {key: made[source] for key, source in node.inputs.items()}
        decision = planner.decide(node, inputs)
        if decision.state is State.RUN:
            assert decision.key is not None
            assert decision.preimage is not None
            ran.append(name)
            with store.outbox() as outbox:
                outbox.write_text("output", texts.get(name.replace("@", "_"), f"{decision.key} {outputs}"))
                artifact = outbox.publish(base.get(node.stage).output, {})
            expected = planned.decisions[name].expected
            observed = {"seconds": 2.0, "max_rss_bytes": 1000, "output_bytes": 10}
            observed |= expected.record() if expected else {}
            store.record(Action(decision.key, name, decision.preimage, artifact.digest, observed))
            made[name] = artifact.digest
        else:
            assert decision.artifact is not None
            made[name] = decision.artifact.digest
    return ran


def of_version(version: int, stage: base.Stage[Any]) -> Callable[[str], base.Stage[Any]]:
    """A registry in which one stage has another version."""
    get, changed = base.get, replace(stage, version=version)
    return lambda name: changed if name == stage.name else get(name)


def states(found: Plan) -> dict[str, State]:
    return {name: decision.state for name, decision in found.decisions.items()}


def test_in_an_empty_store_the_source_runs_and_the_rest_waits(folder: Path, store: Store) -> None:
    found = plan(folder, store)
    assert states(found) == {
        name: State.RUN if name == "load" else State.PENDING for name in found.graph.nodes
    }
    assert found.decisions["load"].reason == "not built before"
    assert found.decisions["export@cpu-int4"].reason == "waits for quantize@cpu-int4"
    assert found.decisions["export@cpu-int4"].key is None
    assert found.missing == ()
    assert found.short == ()
    assert {each.basis for each in found.expected.values()} == {"estimated"}
    assert found.expected_seconds > 0
    assert not found.is_cached


def test_planning_changes_nothing_in_the_store(folder: Path, store: Store) -> None:
    before = sorted(path for path in store.root.rglob("*") if "stats" not in path.parts)
    plan(folder, store)
    assert sorted(path for path in store.root.rglob("*") if "stats" not in path.parts) == before


def test_after_a_run_everything_is_a_hit_with_its_artifact(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    found = plan(folder, store)
    assert set(states(found).values()) == {State.HIT}
    assert found.is_cached
    assert found.expected_seconds == 0
    for decision in found.decisions.values():
        assert decision.artifact is not None
        assert decision.action is not None
        assert decision.key == keys.key_of(decision.action.preimage)


def test_a_moved_folder_is_all_hits(
    folder: Path, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pretend(graph(folder), store)
    moved = tmp_path_factory.mktemp("moved") / "deeper"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("store"))
    assert plan(moved, store).is_cached


def test_a_changed_data_file_runs_what_reads_it_and_says_so(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    (folder / "held-out.txt").write_text(TEXT.replace("old", "new"))
    found = plan(folder, store)
    assert {name for name, state in states(found).items() if state is not State.HIT} == {
        "reference", "quality@cpu-int8", "quality@cpu-int4",
    }  # fmt: skip
    assert found.decisions["reference"].state is State.RUN
    assert found.decisions["reference"].reason == "the content of evaluation changed"
    assert found.decisions["quality@cpu-int8"].reason == "waits for reference"


def test_a_changed_parameter_runs_its_node_and_says_what_it_was(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    found = plan(folder, store, "quantize@cpu-int4.group_size=64")
    assert found.decisions["quantize@cpu-int4"].state is State.RUN
    assert found.decisions["quantize@cpu-int4"].reason == "group_size: 32 → 64"
    assert found.decisions["quantize@cpu-int8"].state is State.HIT


def test_a_changed_library_is_a_reason_to_run(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(graph(folder), store)
    found = keys.installed_version
    monkeypatch.setattr(keys, "installed_version", lambda name: "0.0.1" if name == "torch" else found(name))
    reasons = {name: d.reason for name, d in plan(folder, store).decisions.items() if d.state is State.RUN}
    assert list(reasons) == ["reference"]
    assert reasons["reference"].startswith("tools torch: ")
    assert reasons["reference"].endswith("→ 0.0.1")


def test_another_machine_measures_cost_again_and_nothing_else(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    found = plan(folder, store, host=replace(HOST, processor="another"))
    assert {name for name, state in states(found).items() if state is not State.HIT} == {
        "cost@cpu-int8", "cost@cpu-int4",
    }  # fmt: skip


def test_an_input_that_comes_out_equal_stops_the_rebuild_below_it(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(graph(folder), store, load="the same")
    found = base.get("load")
    monkeypatch.setattr(base, "get", of_version(2, found))
    assert states(plan(folder, store))["quantize@cpu-int8"] is State.PENDING
    assert pretend(graph(folder), store, load="the same") == ["load"]


def test_an_output_that_came_out_different_rebuilds_what_takes_it(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(graph(folder), store, load="the same")
    found = base.get("load")
    monkeypatch.setattr(base, "get", of_version(2, found))
    assert pretend(graph(folder), store, load="another") == list(graph(folder).nodes)


def test_an_output_that_is_gone_or_corrupt_is_built_again(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    artifact = plan(folder, store).decisions["export@cpu-int8"].artifact
    assert artifact is not None
    output = artifact.path / "output"
    output.chmod(0o644)
    output.write_text(output.read_text()[::-1])
    found = plan(folder, store)
    assert found.decisions["export@cpu-int8"].state is State.RUN
    assert found.decisions["export@cpu-int8"].reason == "built before, but its output is gone from the store"
    assert found.decisions["quality@cpu-int8"].state is State.PENDING
    assert found.decisions["quality@cpu-int4"].state is State.HIT


def test_what_has_to_run_is_expected_to_cost_what_it_cost_the_last_time(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    (folder / "held-out.txt").write_text(TEXT.replace("mill", "tree"))
    found = plan(folder, store)
    assert set(found.expected) == {"reference", "quality@cpu-int8", "quality@cpu-int4"}
    assert found.expected["reference"].max_rss_bytes == 1000
    for expected in found.expected.values():
        assert expected.runs == 1
        assert expected.seconds == pytest.approx(2.0)
    assert found.output_bytes == 30
    # The reference, then both of what takes it side by side.
    assert found.expected_seconds == pytest.approx(4.0)


def test_an_execution_is_given_what_the_plan_predicted(folder: Path, store: Store) -> None:
    made = graph(folder)
    planner = Planner(store, HOST)
    found = planner.plan(made)
    decision = planner.following(found)(made.nodes["load"], {})
    assert decision.expected is found.decisions["load"].expected


def test_a_data_file_that_vanished_is_refused(folder: Path, store: Store) -> None:
    made = graph(folder)
    (folder / "held-out.txt").unlink()
    with pytest.raises(DataError, match=r"held-out\.txt"):
        make_plan(made, store, HOST)


def test_what_lacks_a_library_is_blocked_with_all_that_takes_it(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = Requirement("torch", met=False, fix="pip install torch")
    monkeypatch.setattr(
        "ingot.pipeline.plan.of_node", lambda node: (lacking,) if node.stage == "validate.reference" else ()
    )
    found = plan(folder, store)
    blocked = {name for name, state in states(found).items() if state is State.BLOCKED}
    assert blocked == {"reference", "quality@cpu-int8", "quality@cpu-int4"}
    assert found.decisions["reference"].reason == "this machine lacks torch"
    assert found.decisions["quality@cpu-int8"].reason == "takes reference as reference, which is blocked"
    with pytest.raises(RequirementError, match="lacks torch") as caught:
        found.require()
    assert caught.value.fix == "pip install torch"


def test_what_is_cached_needs_nothing(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(graph(folder), store)
    lacking = Requirement("torch", met=False, fix="pip install torch")
    monkeypatch.setattr("ingot.pipeline.plan.of_node", lambda _node: (lacking,))
    found = plan(folder, store, host=replace(HOST, memory_bytes=1))
    assert found.missing == ()
    found.require()


def test_disk_and_memory_that_cannot_suffice_are_told_before_any_work(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = graph(folder)
    facts = MappingProxyType({**made.facts, "parameters": 70_000_000_000})
    made = replace(made, facts=facts, sources=MappingProxyType({"load": facts}))
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(requirements.shutil, "disk_usage", lambda _path: usage._replace(free=10**9))
    found = make_plan(made, store, HOST)
    with pytest.raises(RequirementError) as caught:
        found.require()
    assert "disk space for the store (1.00" in caught.value.what
    # Four bytes a parameter in three artifacts at once, which measuring opens side by side.
    assert "GB of memory for cost@cpu-int8 (estimated; " in caught.value.what
    assert "ingot gc" in str(caught.value.fix)
    forced = found.forced()
    forced.require()
    assert any("--force" in note and "cost@cpu-int8" in note for note in forced.graph.notes)


def test_a_bound_on_memory_is_what_predictions_are_held_against(folder: Path, store: Store) -> None:
    found = Planner(store, HOST, memory_bytes=100_000_000).plan(graph(folder))
    assert [each.name.partition(" of memory for ")[2].partition(";")[0] for each in found.short] == [
        "reference (estimated"
    ]
    assert Planner(store, HOST, memory_bytes=2_000_000_000).plan(graph(folder)).short == ()


def test_the_json_of_a_plan_is_plain_and_tells_state_reason_and_origin(folder: Path, store: Store) -> None:
    value = json.loads(json.dumps(to_json(plan(folder, store, "quantize@cpu-int4.bits=4"))))
    nodes = {node["name"]: node for node in value["nodes"]}
    assert nodes["load"]["state"] == "run"
    assert nodes["quantize@cpu-int4"]["origins"]["bits"] == "--set quantize@cpu-int4.bits=4"
    assert nodes["quantize@cpu-int4"]["params"]["bits"] == 4
    assert value["targets"]["cpu-int8"]["artifact"] == "export@cpu-int8"
    assert value["targets"]["cpu-int8"]["gates"][0]["metric"] == "perplexity"
    assert nodes["load"]["expected"]["runs"] == 0
    assert value["expected"]["seconds"] > nodes["reference"]["expected"]["seconds"]


def test_explain_shows_why_a_node_ran_also_when_it_is_a_hit_by_now(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    sets = ("quantize@cpu-int4.group_size=64", "quantize@cpu-int4.sym=false")
    pretend(graph(folder, *sets), store)
    found = explain(plan(folder, store, *sets), "quantize@cpu-int4", store)
    assert [(change.part, change.old, change.new) for change in found.changes] == [
        ("params.group_size", 32, 64), ("params.sym", True, False),
    ]  # fmt: skip
    below = explain(plan(folder, store, *sets), "export@cpu-int4", store)
    assert [change.part for change in below.changes] == ["inputs.model"]
    untouched = explain(plan(folder, store, *sets), "quantize@cpu-int8", store)
    assert (untouched.old, str(untouched)) == (None, "not built before")


def test_explain_of_a_waiting_node_names_the_input_that_is_not_known(folder: Path, store: Store) -> None:
    pretend(graph(folder), store)
    sets = ("quantize@cpu-int4.group_size=64",)
    found = explain(plan(folder, store, *sets), "export@cpu-int4", store)
    assert str(found) == "the input model is not known yet"


PROBE = """
import json, sys, time
from pathlib import Path
began = time.process_time()
from ingot.artifacts.store import Store
from ingot.pipeline.assemble import graph_of
from ingot.pipeline.plan import make_plan
from ingot.pipeline.recipe import load_recipe
imported = time.process_time()
found = make_plan(graph_of(load_recipe(Path("ingot.yaml"))), Store.open(Path("store")))
planned = time.process_time()
heavy = {"torch", "numpy", "onnx", "onnxruntime", "transformers", "tokenizers", "huggingface_hub"}
print(json.dumps([found.is_cached, sorted(heavy & set(sys.modules)), imported - began, planned - imported]))
"""


def test_planning_a_cached_run_is_quick_and_imports_nothing_heavy(folder: Path) -> None:
    from ingot.artifacts.store import Store
    from ingot.targets.host import probe

    store = Store.open(folder / "store")
    pretend(graph_of(load_recipe(folder / "ingot.yaml")), store, probe())
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=folder, capture_output=True, text=True, check=True
    )
    cached, heavy, _importing, seconds = json.loads(done.stdout)
    assert (cached, heavy) == (True, [])
    # Processor seconds; the bound leaves room for a slow machine, and not for a heavy import.
    assert seconds < 0.3
