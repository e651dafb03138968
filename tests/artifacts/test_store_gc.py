"""Collection: garbage goes, the least recently used follows, and what is in use stays whatever the bound."""

from __future__ import annotations

import json
import os
import time

import pytest
from ingot.artifacts.errors import StoreError
from ingot.artifacts.files import size_of
from ingot.artifacts.gc import STAT_ENTRY_LIFE_SECONDS

KILOBYTE = 1000


def used_at(store, key: str, seconds: float) -> None:
    os.utime(store.stat_entry(store.read_action(key).output), (seconds, seconds))


def overhead(store) -> int:
    """What the store takes beside its trees, in bytes."""
    return size_of(store.root) - size_of(store.trees)


@pytest.fixture
def aged(store, publish):
    """Four artifacts of about 10 kB, k0 the least recently used."""
    for number in range(4):
        publish(store, key=f"k{number}", weights=str(number) * 10 * KILOBYTE)
        used_at(store, f"k{number}", 1000 + number)
    return store


def keys(store) -> list[str]:
    return [action.key for action in store.actions()]


def test_without_a_bound_nothing_that_a_record_leads_to_goes(aged):
    report = aged.gc()
    assert report.trees == report.actions == report.jobs == ()
    assert report.within_limit
    assert keys(aged) == ["k0", "k1", "k2", "k3"]


def test_the_least_recently_used_go_first_until_the_store_fits(aged):
    bound = 21 * KILOBYTE + overhead(aged)
    report = aged.gc(bound)
    assert keys(aged) == ["k2", "k3"]
    assert len(report.trees) == 2
    assert report.actions == ("k0", "k1")
    assert report.within_limit
    assert size_of(aged.root) <= bound
    assert report.freed_bytes > 20 * KILOBYTE
    assert aged.verify().dangling == ()


def test_a_lookup_counts_as_use(aged):
    assert aged.lookup("k0") is not None
    aged.gc(21 * KILOBYTE + overhead(aged))
    assert keys(aged) == ["k0", "k3"]


def test_a_listing_does_not_count_as_use(aged):
    for digest in aged.digests():
        assert aged.artifact(digest) is not None
    assert aged.verify().sound
    aged.gc(21 * KILOBYTE + overhead(aged))
    assert keys(aged) == ["k2", "k3"]


def test_what_the_newest_run_mentions_stays_and_the_report_says_that_it_does_not_fit(aged):
    old, new = aged.read_action("k0").output, aged.read_action("k1").output
    (aged.run_dir("20260101T000000") / "plan.json").write_text(json.dumps({"digest": old}))
    (aged.run_dir("20260102T000000") / "events.jsonl").write_text(f'{{"artifact":"{new}"}}\n{{"torn')
    report = aged.gc(0)
    assert keys(aged) == ["k1"]
    assert not report.within_limit
    assert 10 * KILOBYTE < report.protected_bytes < 11 * KILOBYTE
    assert aged.runs() == ["20260102T000000", "20260101T000000"]


def test_the_number_of_runs_that_are_kept_can_be_chosen(aged):
    for number in range(3):
        digest = aged.read_action(f"k{number}").output
        (aged.run_dir(f"2026010{number}") / "plan.json").write_text(json.dumps([digest]))
    aged.gc(0, keep_runs=2)
    assert keys(aged) == ["k1", "k2"]
    aged.gc(0, keep_runs=0)
    assert keys(aged) == []


def test_a_key_that_a_kept_run_mentions_keeps_its_output(store, publish):
    key = "ab" * 32
    publish(store, key=key)
    (store.run_dir("20260101") / "events.jsonl").write_text(json.dumps({"key": key}))
    store.gc(0)
    assert store.lookup(key) is not None


def test_a_pin_stays(aged):
    aged.pin(aged.read_action("k1").output, "shipped in 1.0")
    aged.gc(0)
    assert keys(aged) == ["k1"]


def test_a_tree_that_no_record_leads_to_is_garbage(store, publish):
    orphan = publish(store, weights="orphan")
    publish(store, key="k", weights="kept")
    assert store.gc().trees == (orphan.digest,)
    assert keys(store) == ["k"]


def test_damaged_and_dangling_records_are_forgotten(store, publish):
    publish(store, key="torn", weights="1")
    (store.root / "actions" / "torn.json").write_text("{")
    gone = publish(store, key="dangling", weights="2")
    store.quarantine(gone.digest, "for the test")
    publish(store, key="kept", weights="3")
    assert store.gc().actions == ("dangling", "torn")
    assert keys(store) == ["kept"]
    assert list((store.root / "trash").iterdir()) == []


def test_nothing_is_collected_while_a_run_uses_the_store(aged):
    with aged.shared_use(), pytest.raises(StoreError, match="run is using"):
        aged.gc(0)
    assert len(keys(aged)) == 4


def test_a_living_outbox_survives_and_a_dead_one_does_not(store, child):
    child(
        "import os, sys; from pathlib import Path; from ingot.artifacts.store import Store\n"
        "outbox = Store.open(Path(sys.argv[1])).outbox().__enter__()\n"
        "outbox.write_text('f', 'x'); os._exit(0)",
        store.root,
    )
    with store.outbox() as outbox:
        outbox.write_text("f", "alive")
        report = store.gc(0)
        assert len(report.outboxes) == 1
        assert outbox.publish("kind", {}).record.size_bytes == 5


class TestJobs:
    def test_the_scratch_of_a_built_key_goes_and_that_of_an_unfinished_one_stays(self, store, publish):
        publish(store, key="built")
        for key in ("built", "unfinished"):
            (store.job_dir(key) / "layer").write_text("x")
        assert store.gc().jobs == ("built",)
        assert (store.job_dir("unfinished") / "layer").exists()

    def test_the_scratch_of_a_built_key_goes_although_the_newest_run_mentions_the_key(self, store, publish):
        key = "ab" * 32
        publish(store, key=key)
        (store.job_dir(key) / "layer").write_text("x")
        (store.run_dir("20260101") / "events.jsonl").write_text(json.dumps({"key": key}))
        assert store.gc().jobs == (key,)
        assert store.lookup(key) is not None

    def test_unfinished_scratch_yields_to_a_bound(self, store):
        (store.job_dir("unfinished") / "layer").write_bytes(b"x" * KILOBYTE)
        assert store.gc(0).jobs == ("unfinished",)

    def test_the_scratch_of_a_locked_key_stays(self, store):
        (store.job_dir("k") / "layer").write_text("x")
        with store.lock("k"):
            assert store.gc(0).jobs == ()
        assert store.gc(0).jobs == ("k",)


def test_leftovers_of_crashes_and_of_time_are_tidied(store, publish, tmp_path):
    publish(store, key="k")
    (store.root / "actions" / ".half-written").write_text("{")
    (store.root / "stats" / "trees" / f"{'0' * 64}.json").write_text("{}")
    (store.root / "stats" / "trees" / ".half-written").write_text("{")
    report = store.run_dir("20260101T000000") / "report"
    report.mkdir()
    half_written = [store.root / ".half", report.parent / ".half", report / ".report.html.1234"]
    for path in half_written:
        path.write_text("half")
    (report / "report.html").write_text("whole")
    old = store.root / "stats" / "files" / f"{'1' * 64}.json"
    new = store.root / "stats" / "files" / f"{'2' * 64}.json"
    for path in (old, new):
        path.write_text("{}")
    long_ago = time.time() - STAT_ENTRY_LIFE_SECONDS - 1
    os.utime(old, (long_ago, long_ago))
    with store.lock("idle"):
        pass
    with store.lock("held"):
        store.gc()
        assert store.key_lock("held").exists()
    assert not store.key_lock("idle").exists()
    assert [path.name for path in (store.root / "actions").iterdir()] == ["k.json"]
    assert len(list((store.root / "stats" / "trees").iterdir())) == 1
    assert list((store.root / "stats" / "files").iterdir()) == [new]
    assert not any(path.exists() for path in half_written)
    assert (report / "report.html").exists()


def test_what_was_collected_is_in_the_journal(aged):
    report = aged.gc(0)
    line = json.loads((aged.root / "journal.jsonl").read_text())
    assert line["event"] == "collected"
    assert sorted(line["trees"]) == sorted(report.trees)
