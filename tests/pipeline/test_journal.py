"""The journal: what is written is read back, and a crash costs at most the line it tore."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts import faults
from ingot.artifacts.errors import CorruptError, StoreError
from ingot.pipeline import events, journal
from ingot.pipeline.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.text(max_size=20)
FINISHED = st.builds(
    events.NodeFinished,
    TEXT, TEXT, TEXT,
    key=st.none() | TEXT,
    artifact=st.none() | TEXT,
    seconds=st.floats(allow_nan=False, allow_infinity=False),
    max_rss_bytes=st.integers(0, 2**60),
    error=st.none() | st.fixed_dictionaries({"kind": TEXT, "what": TEXT, "where": st.none() | TEXT}),
)  # fmt: skip
EVENT = st.one_of(
    FINISHED,
    st.builds(events.RunStarted, TEXT, st.lists(TEXT).map(tuple)),
    st.builds(events.NodeStarted, TEXT, TEXT, TEXT, st.integers(), st.integers(), TEXT),
    st.builds(events.Progress, TEXT, st.integers(), st.integers(), TEXT),
    st.builds(events.Note, TEXT, TEXT),
    st.builds(events.Heartbeat, TEXT, st.integers()),
    st.builds(events.RunFinished, TEXT, TEXT, st.floats(0, 1e9)),
)

STORY = (
    events.RunStarted("r", ("a", "b")),
    events.NodeStarted("a", "toy.text", "k", 2, 1000, "a.log"),
    events.Note("a", "a line\nwith an end and a “quote”"),
    events.NodeFinished("a", "built", "nothing in the store", seconds=1.5),
    events.RunFinished("r", "done", 2.0),
)


def written(directory: Path) -> Path:
    with Journal.create(directory, {"nodes": {}}) as log:
        for event in STORY:
            log.write(event)
    return directory / journal.EVENTS


@given(EVENT)
def test_every_event_survives_its_line(event: events.Event) -> None:
    line = events.encode(event)
    assert line.count(b"\n") == 1
    assert events.decode(line) == event


@pytest.mark.parametrize(
    "line", [b"", b"hello", b"[1]", b'{"event":"unheard_of"}', b'{"event":"note","node":"a"}', b"\xff"]
)
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's and Unicode's own errors are meant as well
        events.decode(line)


def test_the_journal_is_read_back_in_order_with_times(tmp_path: Path) -> None:
    written(tmp_path)
    entries = journal.read(tmp_path)
    assert tuple(entry.event for entry in entries) == STORY
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.time) for entry in entries)
    assert sorted(entry.time for entry in entries) == [entry.time for entry in entries]
    assert journal.read_plan(tmp_path) == {"nodes": {}}


def test_wherever_a_crash_tears_the_last_line_the_lines_before_it_are_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for end in range(last, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert tuple(entry.event for entry in journal.read(tmp_path)) == STORY[:-1]


def test_damage_before_the_last_line_is_named_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b'{"event":"note"\n'
    path.write_bytes(b"".join(lines))
    with pytest.raises(CorruptError) as caught:
        journal.read(tmp_path)
    assert (caught.value.where or "").endswith("events.jsonl:2")


def test_progress_and_heartbeats_are_not_kept(tmp_path: Path) -> None:
    with Journal.create(tmp_path, {}) as log:
        log.write(events.Progress("a", 1, 2, "layers"))
        log.write(events.Heartbeat("a", 5))
    assert journal.read(tmp_path) == ()


def test_a_second_journal_in_one_run_directory_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(StoreError, match="journal already"):
        Journal.create(tmp_path, {})


def test_a_missing_journal_or_plan_is_a_clear_error(tmp_path: Path) -> None:
    for reader in (journal.read, journal.read_plan):
        with pytest.raises(StoreError):
            reader(tmp_path)


def test_a_damaged_plan_is_a_clear_error(tmp_path: Path) -> None:
    for text in ("{", json.dumps([])):
        (tmp_path / journal.PLAN).write_text(text)
        with pytest.raises(CorruptError):
            journal.read_plan(tmp_path)


def test_run_ids_sort_by_time_and_can_name_a_run_in_a_store(store: object) -> None:
    from ingot.artifacts.store import Store

    assert isinstance(store, Store)
    ids = [journal.new_run_id() for _ in range(200)]
    stamps = [name.rpartition("-")[0] for name in ids]
    assert stamps == sorted(stamps)
    assert len(set(ids)) == len(ids)
    assert store.run_dir(ids[0]).name == ids[0]


def test_a_run_started_after_the_clock_went_back_still_is_the_last_one_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = [journal.new_run_id()]
    before.append(journal.new_run_id(before))
    monkeypatch.setenv("INGOT_FAULT", "clock=back")
    after = [*before]
    for _ in range(3):
        after.append(journal.new_run_id(after))
    assert after == sorted(after)
    assert len({name.rpartition("-")[0] for name in after}) == len(after)
    assert journal.new_run_id() < before[0]


def test_names_that_are_no_run_ids_do_not_hold_up_new_ones() -> None:
    odd = ["r", "zzz", "20260101", "99999999T999999999Z-abcdef", "20260230T000000000Z-abcdef"]
    assert journal.new_run_id(odd)[:2] == "20"
    assert journal.new_run_id(odd) > "20260101T"


@pytest.mark.parametrize(
    ("last", "following"),
    [
        ("20991231T235959998Z", "20991231T235959999Z"),
        ("20991231T235959999Z", "21000101T000000000Z"),
        ("20980228T235959999Z", "20980301T000000000Z"),
    ],
)
def test_the_millisecond_after_is_that_of_the_calendar(last: str, following: str) -> None:
    assert journal.new_run_id([f"{last}-abcdef"]).rpartition("-")[0] == following


@pytest.mark.parametrize("effect", ["enospc", "eio"])
def test_a_line_that_the_disk_refuses_is_an_error_and_leaves_the_journal_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: str
) -> None:
    with Journal.create(tmp_path, {}) as log:
        log.write(STORY[0])
        with monkeypatch.context() as patch:
            patch.setenv("INGOT_FAULT", f"write=short,write={effect}@2")  # half of the line, then the refusal
            with pytest.raises(StoreError):
                log.write(STORY[2])
        log.write(STORY[3])
    assert tuple(entry.event for entry in journal.read(tmp_path)) == (STORY[0], STORY[3])


@pytest.mark.parametrize("effect", ["eio", "enospc"])
@pytest.mark.parametrize("place", [*faults.JOURNAL, "fsync", "write"])
def test_a_journal_that_cannot_be_kept_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, effect: str
) -> None:
    monkeypatch.setenv("INGOT_FAULT", f"{place}={effect}")
    with pytest.raises(StoreError, match="no space" if effect == "enospc" else "Input/output error"):
        written(tmp_path)
    assert list(tmp_path.glob(".*")) == []
    assert len(journal.read(tmp_path)) <= len(STORY)  # what is there can be read


@pytest.mark.parametrize("place", [*faults.JOURNAL, "write=torn", "write=torn@4"])
def test_a_driver_killed_at_its_journal_leaves_one_that_is_read(tmp_path: Path, place: str) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from ingot.pipeline import events; from ingot.pipeline.journal import Journal\n"
        "with Journal.create(Path(sys.argv[1]), {}) as log:\n"
        "    log.write(events.RunStarted('r', ('a',)))\n"
        "    for step in range(3): log.write(events.Note('a', str(step)))\n"
        "    log.write(events.NodeFinished('a', 'built', ''))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = {**os.environ, "INGOT_FAULT": place}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    events_read = [entry.event for entry in journal.read(tmp_path)]
    whole = (tmp_path / journal.EVENTS).read_bytes().count(b"\n")
    assert len(events_read) == whole
