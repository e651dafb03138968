"""A damaged store: whatever happens to a file, it is noticed, set aside and rebuilt, never served."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingot.artifacts.files import remove_tree
from ingot.artifacts.verify import Damage

if TYPE_CHECKING:
    from pathlib import Path

PAST_A_CLOCK_TICK_SECONDS = 0.02


def writable(path: Path) -> Path:
    """``path`` with its own and its directory's protection lifted, as root or a bad disk would ignore it."""
    path.parent.chmod(0o755)
    path.chmod(0o644)
    return path


def flip_byte(path: Path) -> None:
    data = bytearray(writable(path).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def same_size_same_mtime(path: Path) -> None:
    before = path.stat()
    flip_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(writable(path), path.stat().st_size - 1)


def remove(path: Path) -> None:
    writable(path).unlink()


def link_elsewhere(path: Path) -> None:
    copy = path.parents[4] / "elsewhere"
    copy.write_bytes(path.read_bytes())
    writable(path).unlink()
    path.symlink_to(copy)


def link_hard(path: Path) -> None:
    (path.parents[4] / "elsewhere").hardlink_to(writable(path))


def add_file(path: Path) -> None:
    (writable(path).parent / "extra").write_text("x")


def replace_by_directory(path: Path) -> None:
    writable(path).unlink()
    path.mkdir()


def remove_payload(path: Path) -> None:
    writable(path)
    remove_tree(path.parent)


def link_payload(path: Path) -> None:
    payload, moved = path.parent, path.parents[4] / "moved"
    payload.chmod(0o755)
    payload.rename(moved)
    payload.symlink_to(moved)


DAMAGES = (
    flip_byte, same_size_same_mtime, truncate, remove, link_elsewhere, link_hard, add_file,
    replace_by_directory, remove_payload, link_payload,
)  # fmt: skip


def by_name(function: object) -> str:
    return getattr(function, "__name__", "")


@pytest.mark.parametrize("damage", DAMAGES, ids=by_name)
def test_a_damaged_payload_is_set_aside_with_the_reason_and_can_be_rebuilt(store, publish, caplog, damage):
    artifact = publish(store, key="k", weights="0123456789", config="{}")
    time.sleep(PAST_A_CLOCK_TICK_SECONDS)
    damage(artifact.path / "weights")
    with caplog.at_level(logging.WARNING):
        assert store.lookup("k") is None
    assert "is corrupt" in caplog.text
    assert "built again" in caplog.text
    assert store.digests() == []
    note = json.loads((store.root / "journal.jsonl").read_text())
    assert note["event"] == "quarantined"
    assert note["digest"] == artifact.digest
    assert note["reason"]
    assert (store.root / "trash" / note["trash"]).is_dir()
    assert json.loads((store.root / "trash" / f"{note['trash']}.json").read_text()) == note

    assert publish(store, key="k", weights="0123456789", config="{}") == artifact
    assert store.lookup("k") is not None


@pytest.mark.parametrize("damage", [flip_byte, truncate, remove, replace_by_directory], ids=by_name)
def test_a_damaged_artifact_json_is_noticed(store, publish, damage):
    artifact = publish(store, key="k")
    damage(artifact.path.parent / "artifact.json")
    assert store.lookup("k") is None
    assert store.digests() == []


def test_a_file_where_a_tree_should_be_is_set_aside(store, publish):
    artifact = publish(store, key="k")
    remove_tree(artifact.path.parent)
    artifact.path.parent.write_text("not a directory")
    assert store.lookup("k") is None
    assert publish(store, key="k") == artifact


def test_publishing_over_a_corrupt_tree_heals_it(store, publish):
    artifact = publish(store, key="k", weights="0123456789")
    time.sleep(PAST_A_CLOCK_TICK_SECONDS)
    flip_byte(artifact.path / "weights")
    assert publish(store, weights="0123456789") == artifact
    assert (store.lookup("k")[1].path / "weights").read_text() == "0123456789"


def test_touching_a_file_costs_a_hash_and_not_the_tree(store, publish, monkeypatch):
    artifact = publish(store, key="k")
    os.utime(artifact.path / "weights")
    assert store.lookup("k") is not None
    monkeypatch.setattr("ingot.artifacts.tree.digest_file", None)  # remembered now: hashing again would fail
    assert store.lookup("k") is not None


def test_a_store_that_was_moved_is_sound(store, publish, tmp_path):
    publish(store, key="k")
    store.root.rename(tmp_path / "moved")
    assert type(store).open(tmp_path / "moved").lookup("k") is not None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"weights": [1]}', '{"weights": "x"}', "\x00"])
def test_a_torn_stat_entry_costs_a_hash_and_nothing_else(store, publish, text):
    artifact = publish(store, key="k")
    store.stat_entry(artifact.digest).write_text(text)
    assert store.lookup("k") is not None


class TestActionRecord:
    def test_a_record_that_points_to_a_missing_tree_is_a_miss_and_a_warning(self, store, publish, caplog):
        artifact = publish(store, key="k")
        remove_tree(artifact.path.parent)
        with caplog.at_level(logging.WARNING):
            assert store.lookup("k") is None
            assert store.action("k") is None
        assert "output of load is missing" in caplog.text

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_no_single_changed_byte_is_believed(self, store, publish, data):
        publish(store, key="k")
        path = store.root / "actions" / "k.json"
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            assert store.lookup("k") is None
        finally:
            path.unlink()

    @pytest.mark.parametrize("length", [0, 1, 40, -1])
    def test_a_torn_record_is_a_miss_and_is_replaced_by_the_next_build(self, store, publish, caplog, length):
        publish(store, key="k")
        path = store.root / "actions" / "k.json"
        path.write_bytes(path.read_bytes()[:length])
        with caplog.at_level(logging.WARNING):
            assert store.lookup("k") is None
        assert "k.json cannot be used" in caplog.text
        publish(store, key="k")
        assert store.lookup("k") is not None

    def test_a_record_under_another_name_is_not_believed(self, store, publish):
        publish(store, key="k")
        (store.root / "actions" / "other.json").write_bytes((store.root / "actions" / "k.json").read_bytes())
        assert store.lookup("other") is None


class TestVerify:
    def test_a_sound_store_is_called_sound(self, store, publish):
        publish(store, key="a", weights="123")
        publish(store, key="b", weights="4567")
        report = store.verify()
        assert report.sound
        assert (report.trees, report.size_bytes) == (2, 7)
        assert report.corrupt == report.unreadable == report.dangling == report.foreign == ()

    def test_it_finds_what_the_stat_cache_cannot_see(self, store, publish, monkeypatch):
        artifact = publish(store, key="k", weights="0123456789")
        path = artifact.path / "weights"
        writable(path)
        known = store.artifact(artifact.digest)
        descriptor = os.open(path, os.O_RDWR)
        before = os.fstat(descriptor)
        os.pwrite(descriptor, b"X", 3)
        os.close(descriptor)
        # Bits that rot leave size, times and inode alone: say so to whoever asks for them.
        monkeypatch.setattr("ingot.artifacts.tree.signature", lambda status: _signature_of(before, status))
        assert store.artifact(artifact.digest) == known
        report = store.verify()
        assert report.corrupt == (Damage(artifact.digest, "weights does not have the recorded SHA-256"),)
        assert report.dangling == ("k",)
        assert not report.sound
        assert store.lookup("k") is None

    def test_it_reports_torn_records(self, store, publish):
        publish(store, key="k")
        (store.root / "actions" / "k.json").write_text("{")
        report = store.verify()
        assert report.unreadable == ("k",)
        assert not report.sound

    def test_it_checks_only_what_is_named_and_says_how_far_it_is(self, store, publish):
        first, second = publish(store, weights="1"), publish(store, weights="2")
        time.sleep(PAST_A_CLOCK_TICK_SECONDS)
        flip_byte(second.path / "weights")
        seen = []
        report = store.verify([first.digest], lambda *step: seen.append(step))
        assert report.trees == 1
        assert report.sound
        assert seen == [(0, 1, first.digest)]

    def test_an_unknown_name_is_an_error(self, store):
        with pytest.raises(Exception, match="no artifact"):
            store.verify(["0" * 64])


def _signature_of(before: os.stat_result, status: os.stat_result) -> tuple[int, int, int, int]:
    same = status.st_ino == before.st_ino
    return (before if same else status).st_size, before.st_mtime_ns, before.st_ctime_ns, status.st_ino
