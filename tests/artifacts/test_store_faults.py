"""Killed and raced: whatever is there is whole, and running again gives the same."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ingot import artifacts
from ingot.artifacts import faults
from ingot.artifacts.files import size_of
from ingot.artifacts.store import Store
from ingot.pipeline import journal
from ingot.stages import merge

BUILD = """
import sys
from pathlib import Path
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store

store, key, salt = Store.open(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
source = Path(sys.argv[1]).parent / "source"
with store.shared_use(), store.lock(key):
    found = store.lookup(key)
    if found is None:
        with store.outbox() as outbox:
            with outbox.create("model.safetensors") as file:
                file.write(b"0123456789abcdef" * 200_000)
            outbox.write_json("config.json", {"layers": 2, "salt": salt})
            outbox.copy_in(source, "tokenizer/tokenizer.json")
            (outbox.payload / "notes.txt").write_text("written past the outbox")
            artifact = outbox.publish("checkpoint", {"parameters": 100})
        action = store.record(Action(key, "load", {"stage": "load"}, artifact.digest, {"seconds": 1.0}))
        found = action, store.artifact(action.output)
print(found[0].output, found[1].record.size_bytes)
"""

RACE = """
import sys, time
from pathlib import Path
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store

root, mode, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
store = Store.open(root)
time.sleep(max(0.0, start - time.time()))
for number in range(10):
    with store.outbox() as outbox:
        outbox.write_text("weights", f"tree {number}" * 10_000)
        outbox.write_text("salt", mode)
        artifact = outbox.publish("checkpoint", {})
    kept = store.record(Action(f"key{number}", "load", {}, artifact.digest, {"run": mode}))
    found = store.lookup(f"key{number}")
    assert found is not None and found[0].output == kept.output
    print(artifact.digest)
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "source").write_text('{"model": "bpe"}')
    return tmp_path


def test_every_labelled_step_is_in_the_list_once():
    labels = []
    rooms = [Path(module.__file__).parent for module in (artifacts, journal, merge)]
    for path in sorted(path for room in rooms for path in room.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault":
                labels.append(ast.literal_eval(node.args[0]))
    assert sorted(labels) == sorted(faults.LABELS)


@pytest.mark.parametrize("label", [*faults.PUBLISH, *faults.RECORD])
def test_killed_at_any_step_the_next_run_gives_the_same_and_nothing_is_left_over(workplace, child, label):
    expected = child(BUILD, workplace / "undisturbed", "k", "salt").stdout
    root = workplace / "store"
    child(BUILD, root, "k", "salt", fault=label)

    survivor = Store.open(root)
    assert survivor.verify().sound  # before the next run: whatever is there is whole
    assert survivor.action("k") is None or survivor.action("k").output == expected.split()[0]
    assert child(BUILD, root, "k", "salt").stdout == expected
    assert survivor.verify().sound
    assert survivor.digests() == [expected.split()[0]]
    assert list((root / "tmp").iterdir()) == []


@pytest.mark.parametrize("label", faults.COLLECT)
def test_a_collector_killed_halfway_leaves_a_sound_store_and_the_next_one_finishes(
    store, publish, child, label
):
    kept = publish(store, key="new", weights="new " * 250)
    for number in range(3):
        publish(store, key=f"old{number}", weights=str(number) * 1000)
        os.utime(store.stat_entry(store.read_action(f"old{number}").output), (number, number))
    script = (
        "import sys; from pathlib import Path; from ingot.artifacts.store import Store\n"
        "Store.open(Path(sys.argv[1])).gc(int(sys.argv[2]))"
    )
    bound = size_of(store.root) - 2000
    child(script, store.root, bound, fault=label)
    assert store.verify().sound
    child(script, store.root, bound)
    assert store.verify().dangling == ()
    assert 1 <= len(store.digests()) < 4
    assert list((store.root / "trash").iterdir()) == []
    assert store.lookup("new")[1] == kept
    assert store.gc(bound).within_limit


@pytest.mark.parametrize("writers", [2, 6])
def test_racing_writers_of_one_tree_and_one_key_all_succeed_and_store_it_once(tmp_path, writers):
    outputs = _race(tmp_path, ["same"] * writers)
    assert len(set(outputs)) == 1
    store = Store.open(tmp_path / "store")
    assert sorted(outputs[0].split()) == store.digests()
    assert len(store.digests()) == 10
    assert store.verify().sound
    assert all("divergence" not in action.observed for action in store.actions())
    assert list((store.root / "tmp").iterdir()) == []


def test_racing_writers_of_different_trees_for_one_key_leave_one_winner_and_notes_of_the_others(tmp_path):
    names = ["a", "b", "c"]
    _race(tmp_path, names)
    store = Store.open(tmp_path / "store")
    assert len(store.digests()) == 30
    for action in store.actions():
        divergent = [entry["output"] for entry in action.observed["divergence"]]
        assert len({action.output, *divergent}) == 3
        assert len(divergent) == 2
    assert len(list(store.actions())) == 10


def test_two_runs_racing_on_one_key_do_the_work_once(workplace, tmp_path):
    root = tmp_path / "store"
    counted = BUILD.replace(
        "if found is None:", "if found is None:\n        (source.parent / key).open('a').write('x')"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", counted, str(root), "k", "salt"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert len(set(outputs)) == 1
    assert outputs[0]
    assert (tmp_path / "k").read_text() == "x"


def _race(folder: Path, modes: list[str]) -> list[str]:
    start = time.time() + 0.5
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(folder / "store"), mode, str(start)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for mode in modes
    ]  # fmt: skip
    results = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in results] == [0] * len(modes), [streams[1] for streams, _ in results]
    return [streams[0] for streams, _ in results]
