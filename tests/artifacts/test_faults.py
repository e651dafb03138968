"""The fault harness, and every fault of a disk or a crash at every place where the store meets one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts import clock, faults, layout, locks
from ingot.artifacts.errors import StoreError
from ingot.artifacts.files import size_of
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store

if TYPE_CHECKING:
    from pathlib import Path

BUILD = """
import sys
from pathlib import Path
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store

store = Store.open(Path(sys.argv[1]))
with store.outbox() as outbox:
    with outbox.create("model.safetensors") as file:
        file.write(b"0123456789abcdef" * 100_000)
    outbox.write_json("config.json", {"layers": 2})
    (outbox.payload / "notes.txt").write_text("written past the outbox")
    artifact = outbox.publish("checkpoint", {})
print(store.record(Action("k", "load", {}, artifact.digest, {})).output)
"""


# Calls of the disk while `build` builds: every write, and every wait for the disk, that it makes.
DISK = [f"write@{nth}" for nth in range(1, 5)] + [f"fsync@{nth}" for nth in range(1, 10)]


def failing(place: str, effect: str) -> str:
    """The order that makes ``place``, or its nth pass after an @, fail."""
    place, _, nth = place.partition("@")
    return f"{place}={effect}@{nth or 1}"


def build(store: Store) -> str:
    with store.outbox() as outbox:
        with outbox.create("model") as file:
            file.write(b"m" * 2_500_000)
        outbox.write_json("config.json", {})
        (outbox.payload / "direct").write_bytes(b"d")
        artifact = outbox.publish("checkpoint", {})
    return store.record(Action("k", "load", {}, artifact.digest, {})).output


class TestHarness:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("publish.renamed", [("publish.renamed", "kill", 1)]),
            ("publish.renamed=kill", [("publish.renamed", "kill", 1)]),
            ("write=enospc@3,fsync=eio", [("write", "enospc", 3), ("fsync", "eio", 1)]),
            ("write=torn@2", [("write", "torn", 2)]),
            ("clock=back@3", [("clock", "back", 3)]),
        ],
    )
    def test_the_variable_names_places_effects_and_passes(self, text, expected):
        assert [(o.place, o.effect, o.nth) for o in faults.parse(text)] == expected

    @pytest.mark.parametrize(
        "text",
        ["publish.nowhere", "write=explode", "fsync=torn", "publish.renamed=short", "write=eio@x", "clock"],
    )
    def test_what_does_not_exist_is_refused(self, text):
        with pytest.raises(ValueError, match="is no place, or no effect"):
            faults.parse(text)

    def test_the_nth_pass_fails_and_the_others_do_not(self, monkeypatch, tmp_path):
        monkeypatch.setenv(faults.VARIABLE, "write=eio@2")
        with (tmp_path / "file").open("wb") as stream:
            outcomes = []
            for _ in range(3):
                try:
                    outcomes.append(faults.write(stream.fileno(), memoryview(b"abcd")))
                except OSError as error:
                    outcomes.append(error.strerror)
        assert outcomes == [4, "Input/output error", 4]

    def test_a_clock_that_went_back_stays_there(self, monkeypatch):
        monkeypatch.setenv(faults.VARIABLE, "clock=back@2")
        times = [faults.time_ns() for _ in range(4)]
        year = 365 * 24 * 3600 * 10**9
        assert times[0] > times[1] + year / 2
        assert times[1] <= times[2] <= times[3] < times[0] - year / 2

    def test_a_short_write_writes_half(self, monkeypatch, tmp_path):
        monkeypatch.setenv(faults.VARIABLE, "write=short")
        with (tmp_path / "file").open("wb") as stream:
            assert faults.write(stream.fileno(), memoryview(b"abcdef")) == 3
        assert (tmp_path / "file").read_bytes() == b"abc"


@pytest.mark.parametrize("effect", ["eio", "enospc"])
@pytest.mark.parametrize("place", [*faults.PUBLISH, *faults.RECORD, *DISK])
def test_an_error_at_any_step_is_one_clear_error_and_the_next_try_gives_the_same(
    store, tmp_path, monkeypatch, place, effect
):
    expected = build(Store.open(tmp_path / "undisturbed"))
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, failing(place, effect))
        with pytest.raises(StoreError) as caught:
            build(store)
    assert ("no space left" if effect == "enospc" else "Input/output error") in str(caught.value)
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "actions").glob(".*")) == []
    assert store.verify().sound
    assert build(store) == expected


def test_the_matrix_above_has_every_call_of_the_disk(store, monkeypatch):
    passed = {faults.WRITE: 0, faults.SYNC: 0}
    for name in passed:
        real = getattr(faults, "write" if name == faults.WRITE else "sync")

        def counted(*arguments, name=name, real=real):
            passed[name] += 1
            return real(*arguments)

        monkeypatch.setattr(faults, real.__name__, counted)
    build(store)
    assert [f"{name}@{nth}" for name, count in passed.items() for nth in range(1, count + 1)] == DISK


@pytest.mark.parametrize("nth", range(1, 8))
def test_short_writes_cost_nothing_but_another_call(store, tmp_path, monkeypatch, nth):
    expected = build(Store.open(tmp_path / "undisturbed"))
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, f"write=short@{nth}")
        assert build(store) == expected
    assert store.verify().sound


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_a_torn_write_is_never_published(tmp_path, child, nth):
    expected = child(BUILD, tmp_path / "undisturbed").stdout
    root = tmp_path / "store"
    child(BUILD, root, fault=f"write=torn@{nth}")
    survivor = Store.open(root)
    assert survivor.verify().sound
    assert child(BUILD, root).stdout == expected
    assert list((root / "tmp").iterdir()) == []


def flip(store: Store, digest: str) -> Path:
    path = store.trees / digest / "payload" / "weights"
    path.parent.chmod(0o755)
    path.chmod(0o644)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    return path


@pytest.mark.parametrize("effect", ["eio", "enospc"])
@pytest.mark.parametrize("place", [*faults.COLLECT, faults.WRITE])
def test_a_collector_that_the_disk_stops_says_so_serves_all_it_kept_and_the_next_one_finishes(
    store, publish, monkeypatch, place, effect
):
    for number in range(3):
        publish(store, key=f"k{number}", weights=str(number) * 1000)
    kept = store.lookup("k2")
    bound = size_of(store.root) - 2000
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, f"{place}={effect}")
        with pytest.raises(StoreError) as caught:
            store.gc(bound)
    assert ("no space left" if effect == "enospc" else "Input/output error") in str(caught.value)
    assert store.verify().sound
    report = store.gc(bound)
    assert report.within_limit
    assert store.verify().dangling == ()
    assert store.lookup("k2") == kept
    assert list((store.root / "trash").iterdir()) == []


@pytest.mark.parametrize("effect", ["eio", "enospc"])
@pytest.mark.parametrize("place", [*faults.QUARANTINE, faults.WRITE])
def test_a_corrupt_tree_that_the_disk_does_not_let_us_set_aside_is_not_served(
    store, publish, monkeypatch, caplog, place, effect
):
    artifact = publish(store, key="k", weights="0123456789")
    time.sleep(0.02)
    flip(store, artifact.digest)
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, f"{place}={effect}")
        if effect == "eio":
            with pytest.raises(StoreError, match="Input/output error"):
                store.lookup("k")
        else:
            assert store.lookup("k") is None
    assert "is corrupt" in caplog.text
    assert store.lookup("k") is None
    assert publish(store, key="k", weights="0123456789") == artifact
    assert store.verify().sound
    store.gc()
    assert list((store.root / "trash").iterdir()) == []


@pytest.mark.parametrize("label", faults.QUARANTINE)
def test_a_process_killed_while_it_sets_a_corrupt_tree_aside_leaves_nothing_served(
    store, publish, child, label
):
    artifact = publish(store, key="k", weights="0123456789")
    time.sleep(0.02)
    flip(store, artifact.digest)
    script = (
        "import sys; from pathlib import Path; from ingot.artifacts.store import Store\n"
        "Store.open(Path(sys.argv[1])).lookup('k')"
    )
    child(script, store.root, fault=label)
    assert store.lookup("k") is None
    assert publish(store, key="k", weights="0123456789") == artifact
    store.gc()
    assert list((store.root / "trash").iterdir()) == []


class TestStoreJournal:
    def test_a_torn_line_does_not_swallow_the_next_one(self, store):
        layout.journal(store.root, "first")
        path = store.root / layout.JOURNAL
        path.write_bytes(path.read_bytes() + b'{"event":"to')
        layout.journal(store.root, "third")
        lines = path.read_text().splitlines()
        assert [line for line in lines if line.endswith("}")] == [lines[0], lines[2]]
        assert json.loads(lines[2])["event"] == "third"

    def test_a_short_write_is_finished(self, store, monkeypatch):
        monkeypatch.setenv(faults.VARIABLE, "write=short")
        layout.journal(store.root, "whole")
        assert json.loads((store.root / layout.JOURNAL).read_text())["event"] == "whole"


class TestClockThatGoesBack:
    def test_a_file_changed_in_what_seems_the_past_is_hashed_again(self, store, tmp_path, monkeypatch):
        path = tmp_path / "text"
        path.write_text("one")
        os.utime(path, (1, 1))
        first = store.file_digest(path)
        path.write_text("two")
        os.utime(path, (1, 1))
        assert store.file_digest(path) != first
        # The clock of this process stands before the file's: nothing may be remembered then.
        monkeypatch.setattr("ingot.artifacts.faults.time.time_ns", lambda: 1)
        path.write_text("six")
        digest = store.file_digest(path)
        assert store.file_digest(path) == digest
        assert digest != first

    def test_records_and_uses_count_as_later_than_those_before_them(self, store, publish, monkeypatch):
        publish(store, key="a", weights="a" * 500)
        publish(store, key="b", weights="b" * 500)
        assert store.newest_keys() == ["b", "a"]
        monkeypatch.setenv(faults.VARIABLE, "clock=back")
        publish(store, key="c", weights="c" * 500)
        assert store.newest_keys() == ["c", "b", "a"]
        store.lookup("a")
        for gone, left in (("b", 2), ("c", 1), ("a", 0)):  # from the least recently used on
            (tree,) = store.gc(size_of(store.root) - 400).trees
            assert gone not in store.newest_keys()
            assert len(store.digests()) == left
            assert tree not in store.digests()

    def test_the_clock_of_a_store_goes_on_where_the_system_s_went_back(self, store, monkeypatch):
        first = clock.store_time_ns(store.root)
        assert abs(first - time.time_ns()) < 60 * 10**9
        monkeypatch.setenv(faults.VARIABLE, "clock=back")
        times = [clock.store_time_ns(store.root) for _ in range(3)]
        assert first < times[0] < times[1] < times[2] < first + 10**9
        monkeypatch.delenv(faults.VARIABLE)
        assert clock.store_time_ns(store.root) > times[2]

    def test_artifacts_used_in_the_future_are_kept_and_collected_like_others(self, store, publish):
        future, past = publish(store, key="a", weights="a" * 500), publish(store, key="b", weights="b" * 500)
        os.utime(store.stat_entry(future.digest), (2**33, 2**33))
        os.utime(store.stat_entry(past.digest), (1, 1))
        report = store.gc(1_500)
        assert past.digest in report.trees
        store.gc(0)
        assert store.digests() == []


class TestStaleLocks:
    def test_a_lock_whose_holder_was_killed_is_taken_at_once(self, store):
        script = (
            "import sys, time; from pathlib import Path; from ingot.artifacts.store import Store\n"
            "store = Store.open(Path(sys.argv[1]))\n"
            "with store.shared_use(), store.lock('k'), store.outbox():\n"
            "    print('held', flush=True); time.sleep(60)"
        )
        command = [sys.executable, "-c", script, str(store.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "held\n"
            assert locks.is_held(store.key_lock("k"))
            with pytest.raises(StoreError, match="a run is using the store"):
                store.gc()
            holder.send_signal(signal.SIGKILL)
        assert not locks.is_held(store.key_lock("k"))
        started = time.monotonic()
        with store.lock("k"):
            pass
        report = store.gc()
        assert time.monotonic() - started < 5
        assert len(report.outboxes) == 1
        assert list((store.root / "tmp").iterdir()) == []

    def test_a_lock_file_with_another_processs_number_in_it_holds_nobody(self, store):
        path = store.key_lock("k")
        path.write_text(str(os.getppid()))  # as if a process number had been used again
        assert not locks.is_held(path)
        with store.lock("k"):
            assert locks.is_held(path)
