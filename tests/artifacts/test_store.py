"""What the store promises when nothing goes wrong, and how it speaks when something does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.digest import canonical_json
from ingot.artifacts.errors import CorruptError, DataError, StoreError
from ingot.artifacts.layout import FORMAT
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store

if TYPE_CHECKING:
    from typing import BinaryIO

LIGHT = """
import sys, time
from pathlib import Path
from ingot.artifacts.store import Store
began = time.perf_counter()
store = Store.open(Path(sys.argv[1]))
assert all(store.lookup(f"key{number}") for number in range(6))
print((time.perf_counter() - began) * 1000)
heavy = {"torch", "numpy", "transformers", "onnx", "shutil", "tempfile", "hypothesis", "subprocess", "ctypes"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_an_artifact_is_named_by_the_sha256_of_its_record_and_its_record_by_the_files_hashes(store, publish):
    artifact = publish(store, weights="1 2 3")
    record = artifact.path.parent / "artifact.json"
    assert hashlib.sha256(record.read_bytes()).hexdigest() == artifact.digest == artifact.path.parent.name
    assert json.loads(record.read_bytes()) == {
        "schema": "ingot/artifact/v1",
        "kind": "checkpoint",
        "facts": {"layers": 2},
        "files": [{"path": "weights", "size": 5, "sha256": hashlib.sha256(b"1 2 3").hexdigest()}],
    }


def test_two_stores_agree_on_a_digest(tmp_path, publish):
    first, second = (publish(Store.open(tmp_path / name), weights="x") for name in ("a", "b"))
    assert first.digest == second.digest


@pytest.mark.parametrize("changed", [{"weights": "y"}, {"other": "x"}, {"weights": "x", "more": ""}])
def test_other_files_are_another_artifact(store, publish, changed):
    assert publish(store, weights="x").digest != publish(store, **changed).digest


def test_what_was_published_is_found_again_with_its_action(tmp_path, publish):
    artifact = publish(Store.open(tmp_path), key="k1", weights="x")
    action, found = Store.open(tmp_path).lookup("k1")
    assert found == artifact
    assert action == Action("k1", "load", {"stage": "load"}, artifact.digest, {"seconds": 1.5})
    assert (found.path / "weights").read_text() == "x"


def test_an_unknown_key_or_digest_is_a_quiet_miss(store, caplog):
    assert store.lookup("k") is None
    assert store.action("k") is None
    assert store.artifact("0" * 64) is None
    assert caplog.text == ""


def test_payload_files_are_read_only_and_have_one_link(store, publish):
    artifact = publish(store, a="1", b="2")
    for path in artifact.path.iterdir():
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert status.st_nlink == 1
        assert status.st_mode & 0o222 == 0
    assert artifact.path.stat().st_mode & 0o222 == 0


def test_equal_trees_are_stored_once(store, publish):
    assert publish(store, a="1") == publish(store, a="1")
    assert len(store.digests()) == 1
    assert list((store.root / "tmp").iterdir()) == []


def test_opening_and_six_lookups_take_milliseconds_and_import_nothing_heavy(tmp_path, publish, child):
    store = Store.open(tmp_path)
    for number in range(6):
        publish(store, key=f"key{number}", weights=str(number), config="{}")
    assert min(float(child(LIGHT, tmp_path).stdout) for _ in range(3)) < 50


def test_the_store_is_where_the_path_the_variable_or_the_default_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INGOT_STORE", raising=False)
    assert Store.open().root == tmp_path / "home" / ".cache" / "ingot"
    monkeypatch.setenv("INGOT_STORE", str(tmp_path / "variable"))
    assert Store.open().root == tmp_path / "variable"
    assert Store.open(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.chdir(tmp_path)
    assert Store.open(Path("relative")).root == tmp_path / "relative"


def test_a_store_of_another_layout_is_refused(tmp_path):
    (tmp_path / "format.json").write_text('{"schema": "ingot/store/v9"}')
    with pytest.raises(StoreError, match="ingot/store/v9"):
        Store.open(tmp_path)


def test_the_layout_is_written_down(store):
    assert json.loads((store.root / "format.json").read_text()) == {"schema": FORMAT}


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "x" * 300, "a\nb", "a\0b"])
def test_a_name_that_could_leave_the_store_is_refused(store, name):
    for use in (store.artifact, store.lookup, store.job_dir, store.run_dir, store.lock, store.discard_job):
        with pytest.raises(StoreError, match="cannot be the name"):
            use(name)


class TestRecord:
    def test_the_first_publisher_of_a_key_wins_and_the_divergence_is_noted(self, store, publish):
        first, second = publish(store, key="k", weights="1"), publish(store, weights="2")
        later = Action("k", "load", {"stage": "load"}, second.digest, {"run": "r2", "finished": "2026-01-02"})
        kept = store.record(later)
        assert kept.output == first.digest
        note = {"output": second.digest, "run": "r2", "finished": "2026-01-02"}
        assert kept.observed == {"seconds": 1.5, "divergence": [note]}
        assert store.record(later) == kept == store.action("k")

    def test_the_same_output_leaves_the_first_record_as_it_was(self, store, publish):
        artifact = publish(store, key="k")
        again = store.record(Action("k", "load", {"stage": "load"}, artifact.digest, {"seconds": 99}))
        assert again.observed == {"seconds": 1.5}

    def test_a_later_output_takes_over_when_the_first_one_is_gone(self, store, publish):
        first = publish(store, key="k", weights="1")
        store.quarantine(first.digest, "for the test")
        second = publish(store, weights="2")
        store.record(Action("k", "load", {}, second.digest, {}))
        action, artifact = store.lookup("k")
        assert artifact.digest == second.digest
        assert [entry["output"] for entry in action.observed["divergence"]] == [first.digest]

    def test_a_record_is_canonical_json_with_its_own_checksum(self, store, publish):
        publish(store, key="k")
        data = (store.root / "actions" / "k.json").read_bytes()
        value = json.loads(data)
        checksum = value.pop("sha256")
        assert checksum == hashlib.sha256(canonical_json(value)).hexdigest()
        assert data == canonical_json({**value, "sha256": checksum})

    def test_actions_lists_every_readable_record(self, store, publish):
        publish(store, key="b", weights="1")
        publish(store, key="a", weights="2")
        assert [action.key for action in store.actions()] == ["a", "b"]


class TestFileDigest:
    def test_it_is_the_sha256_of_the_bytes(self, store, tmp_path):
        source = tmp_path / "data.txt"
        source.write_bytes(b"abc")
        # FIPS 180-4's own example
        assert store.file_digest(source) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def test_a_settled_file_is_not_read_twice(self, store, tmp_path, monkeypatch):
        source = tmp_path / "data.txt"
        source.write_bytes(b"abc")
        first = self._settled_digest(store, source, monkeypatch)
        monkeypatch.setattr("ingot.artifacts.stats.digest_stream", _refuse)
        assert store.file_digest(source) == first

    def test_a_changed_file_has_another_digest_although_its_size_and_mtime_are_the_same(
        self, store, tmp_path, monkeypatch
    ):
        source = tmp_path / "data.txt"
        source.write_bytes(b"abc")
        before = source.stat()
        self._settled_digest(store, source, monkeypatch)
        time.sleep(0.02)  # longer than a tick of the file system's clock
        source.write_bytes(b"abd")
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert store.file_digest(source) == hashlib.sha256(b"abd").hexdigest()

    def test_a_file_written_a_moment_ago_is_read_again(self, store, tmp_path):
        source = tmp_path / "data.txt"
        source.write_bytes(b"abc")
        store.file_digest(source)
        assert list((store.root / "stats" / "files").iterdir()) == []

    def test_a_file_that_changes_while_it_is_read_has_no_digest(self, store, tmp_path, monkeypatch):
        source = tmp_path / "data.txt"
        source.write_bytes(b"abc")

        def read_late(stream: BinaryIO) -> str:
            source.write_bytes(b"abcd")
            return hashlib.sha256(stream.read()).hexdigest()

        monkeypatch.setattr("ingot.artifacts.stats.digest_stream", read_late)
        with pytest.raises(DataError, match="changed while"):
            store.file_digest(source)

    def test_a_torn_memory_costs_a_hash_and_nothing_else(self, store, tmp_path, monkeypatch):
        source = tmp_path / "data.txt"
        source.write_bytes(b"abc")
        first = self._settled_digest(store, source, monkeypatch)
        (entry,) = (store.root / "stats" / "files").iterdir()
        entry.write_text('{"signature": [1, 2')
        assert store.file_digest(source) == first

    def test_a_link_is_followed_to_the_file_it_names(self, store, tmp_path):
        (tmp_path / "data.txt").write_bytes(b"abc")
        (tmp_path / "link").symlink_to("data.txt")
        assert store.file_digest(tmp_path / "link") == store.file_digest(tmp_path / "data.txt")

    @pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo])
    def test_what_is_not_a_file_is_a_data_error_that_names_it(self, store, tmp_path, make):
        make(tmp_path / "data.txt")
        with pytest.raises(DataError, match=r"data\.txt"):
            store.file_digest(tmp_path / "data.txt")

    @staticmethod
    def _settled_digest(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("ingot.artifacts.stats.CLOCK_TICK_NS", -(10**9))
            return store.file_digest(source)


class TestDirectories:
    def test_a_job_directory_is_found_again_until_it_is_discarded(self, store):
        (store.job_dir("k") / "layer-3").write_text("half")
        assert (Store.open(store.root).job_dir("k") / "layer-3").read_text() == "half"
        store.discard_job("k")
        assert list(store.job_dir("k").iterdir()) == []
        store.discard_job("never-made")

    def test_runs_come_newest_first(self, store):
        for name in ("20260102T000000-b", "20260103T000000-a", "20260101T000000-c"):
            store.run_dir(name)
        assert store.runs() == ["20260103T000000-a", "20260102T000000-b", "20260101T000000-c"]


class TestCopyOut:
    def test_it_copies_every_file_writable_and_unlinked(self, store, publish, tmp_path):
        artifact = publish(store, a="1", b="2")
        store.copy_out(artifact, tmp_path / "out")
        assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"a": "1", "b": "2"}
        assert all(path.stat().st_nlink == 1 for path in (tmp_path / "out").iterdir())
        (tmp_path / "out" / "a").write_text("mine now")
        assert (artifact.path / "a").read_text() == "1"

    def test_it_never_hands_out_other_bytes_even_where_the_stat_cache_is_fooled(
        self, store, publish, tmp_path
    ):
        artifact = publish(store, a="1", b="2")
        (artifact.path / "b").chmod(0o644)
        (artifact.path / "b").write_text("3")
        with pytest.raises(CorruptError, match="b does not have the recorded SHA-256"):
            store.copy_out(artifact, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
        assert store.artifact(artifact.digest) is None

    def test_a_missing_file_is_corruption(self, store, publish, tmp_path):
        artifact = publish(store, a="1", b="2")
        artifact.path.chmod(0o755)
        (artifact.path / "b").unlink()
        with pytest.raises(CorruptError, match="b cannot be read"):
            store.copy_out(artifact, tmp_path / "out")

    def test_it_overwrites_nothing(self, store, publish, tmp_path):
        artifact = publish(store, a="1", b="2")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "b").write_text("mine")
        with pytest.raises(StoreError, match="in the way"):
            store.copy_out(artifact, tmp_path / "out")
        assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"b": "mine"}


class TestLocks:
    def test_a_second_holder_of_a_key_waits_for_the_first(self, store):
        order = []

        def second() -> None:
            with store.lock("k"):
                order.append("second")

        with store.lock("k"):
            thread = threading.Thread(target=second)
            thread.start()
            time.sleep(0.05)
            order.append("first")
        thread.join()
        assert order == ["first", "second"]

    def test_two_keys_do_not_wait_for_each_other(self, store):
        with store.lock("a"), store.lock("b"):
            pass

    def test_a_lock_left_by_a_dead_process_holds_nobody_up(self, store, child):
        child(
            "import sys, os; from pathlib import Path; from ingot.artifacts.store import Store\n"
            "Store.open(Path(sys.argv[1])).lock('k').__enter__(); os._exit(0)",
            store.root,
        )
        assert store.key_lock("k").exists()
        with store.lock("k"):
            pass

    def test_runs_share_the_store_and_a_sole_user_is_refused_meanwhile(self, store):
        with (
            store.shared_use(),
            store.shared_use(),
            pytest.raises(StoreError, match="run is using"),
            store.sole_use(),
        ):
            pass
        with store.sole_use():
            pass

    def test_an_error_inside_a_lock_is_not_taken_for_the_stores(self, store):
        with pytest.raises(FileNotFoundError), store.lock("k"):
            raise FileNotFoundError


class TestPins:
    def test_a_pin_is_listed_until_it_is_taken_out(self, store, publish):
        artifact = publish(store)
        store.pin(artifact.digest, "shipped")
        assert store.pins() == [artifact.digest]
        store.unpin(artifact.digest)
        assert store.pins() == []

    def test_what_is_not_here_cannot_be_pinned(self, store):
        with pytest.raises(StoreError, match="no artifact"):
            store.pin("0" * 64, "why")


def test_a_store_value_is_frozen(store):
    with pytest.raises(dataclasses.FrozenInstanceError):
        store.root = Path("/")


def test_a_foreign_record_or_tree_is_left_alone_and_a_miss(store, publish, caplog):
    publish(store, key="k")
    tree = store.trees / hashlib.sha256(b'{"schema":"ingot/artifact/v2"}').hexdigest()
    (tree / "payload").mkdir(parents=True)
    (tree / "artifact.json").write_bytes(b'{"schema":"ingot/artifact/v2"}')
    value = {"schema": "ingot/action/v2", "whatever": 1}
    value["sha256"] = hashlib.sha256(canonical_json(value)).hexdigest()
    (store.root / "actions" / "new.json").write_bytes(canonical_json(value))
    with caplog.at_level(logging.WARNING):
        assert store.artifact(tree.name) is None
        assert store.lookup("new") is None
    assert "ingot/artifact/v2" in caplog.text
    assert "ingot/action/v2" in caplog.text
    assert tree.exists()
    assert (store.root / "actions" / "new.json").exists()
    assert store.lookup("k") is not None


def _refuse(*_: object) -> str:
    raise AssertionError("the file was read again")
