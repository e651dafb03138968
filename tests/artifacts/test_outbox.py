"""Writing an artifact: every way in gives the same digest, and what cannot be an artifact is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingot.artifacts import hashing
from ingot.artifacts import outbox as outbox_module
from ingot.artifacts.errors import DataError, StoreError
from ingot.artifacts.files import check_relative
from ingot.artifacts.hashing import BLOCK_BYTES, BLOCKS, SYNC_BYTES, HashingFile, KeptFile
from ingot.artifacts.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

EDGES = sorted(
    {0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, (BLOCKS + 2) * BLOCK_BYTES + 3, SYNC_BYTES + 5}
)


def contents(size: int) -> bytes:
    """Bytes without a period that a lost or doubled block could hide in."""
    return hashlib.shake_128(size.to_bytes(8, "big")).digest(size)


GENUINE = hashlib.sha256


class SlowDigest:
    """A SHA-256 that starts on a block only when the writer has long moved on."""

    def __init__(self) -> None:
        self._state = GENUINE()

    def update(self, block: memoryview) -> None:
        time.sleep(0.01)
        self._state.update(block)

    def hexdigest(self) -> str:
        return self._state.hexdigest()


class TestHashingFile:
    @pytest.mark.parametrize("size", EDGES)
    @pytest.mark.parametrize("step", [777, BLOCK_BYTES // 2, 3 * BLOCK_BYTES, 1 << 40])
    def test_the_bytes_and_the_digest_are_those_of_what_was_written(self, tmp_path, size, step):
        data = contents(size)
        if size // step > 10_000:
            data = data[: step * 10_000]
        with HashingFile(tmp_path / "f") as file:
            for start in range(0, len(data), step):
                file.write(data[start : start + step])
        assert (tmp_path / "f").read_bytes() == data
        assert file.sha256 == hashlib.sha256(data).hexdigest()
        assert file.size == file.tell() == len(data)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(pieces=st.lists(st.integers(0, 2 * BLOCK_BYTES), max_size=12))
    def test_however_the_pieces_fall_the_digest_is_the_same(self, tmp_path, pieces):
        data = contents(sum(pieces))
        path = tmp_path / "f"
        path.unlink(missing_ok=True)
        with HashingFile(path) as file:
            start = 0
            for piece in pieces:
                file.write(data[start : start + piece])
                start += piece
        assert path.read_bytes() == data
        assert file.sha256 == hashlib.sha256(data).hexdigest()

    @pytest.mark.parametrize("size", [BLOCK_BYTES // 2, 2 * BLOCK_BYTES])
    def test_a_buffer_may_be_changed_as_soon_as_write_returns(self, tmp_path, monkeypatch, size):
        monkeypatch.setattr(hashing.hashlib, "sha256", SlowDigest)
        buffer = bytearray(contents(size))
        expected = GENUINE(bytes(buffer) * 20).hexdigest()
        with HashingFile(tmp_path / "f") as file:
            for _ in range(20):
                copy = bytearray(buffer)
                file.write(copy)
                copy[:] = bytes(size)
        assert file.sha256 == expected

    def test_any_buffer_is_taken_by_its_bytes(self, tmp_path):
        with HashingFile(tmp_path / "f") as file:
            assert file.write(memoryview(b"abcdefgh").cast("I")) == 8
        assert (tmp_path / "f").read_bytes() == b"abcdefgh"

    def test_json_and_text_wrappers_write_through_it(self, tmp_path):
        with HashingFile(tmp_path / "f") as file:
            wrapper = io.TextIOWrapper(file, encoding="utf-8")
            json.dump({"a": [1, 2]}, wrapper)
            wrapper.flush()
            wrapper.detach()
        assert json.loads((tmp_path / "f").read_text()) == {"a": [1, 2]}

    def test_an_exception_inside_the_block_removes_the_file(self, tmp_path):
        file = HashingFile(tmp_path / "f")
        file.write(contents(2 * BLOCK_BYTES))
        with pytest.raises(KeyError), file:
            raise KeyError
        assert not (tmp_path / "f").exists()

    def test_short_writes_are_completed(self, tmp_path, monkeypatch):
        write = os.write
        monkeypatch.setattr("ingot.artifacts.files.os.write", lambda fd, data: write(fd, data[:1000]))
        data = contents(BLOCK_BYTES + 7)
        with HashingFile(tmp_path / "f") as file:
            file.write(data)
        assert (tmp_path / "f").read_bytes() == data

    def test_lost_bytes_are_found_by_the_length_check(self, tmp_path, monkeypatch):
        write = os.write
        monkeypatch.setattr("ingot.artifacts.files.os.write", lambda fd, data: write(fd, data[:-1]) + 1)
        with pytest.raises(StoreError, match="9 bytes arrived of 10"), HashingFile(tmp_path / "f") as file:
            file.write(b"0123456789")
        assert not (tmp_path / "f").exists()

    def test_an_existing_file_is_not_overwritten(self, tmp_path):
        (tmp_path / "f").write_text("mine")
        with pytest.raises(StoreError):
            HashingFile(tmp_path / "f")
        assert (tmp_path / "f").read_text() == "mine"

    def test_it_is_over_after_close(self, tmp_path):
        file = HashingFile(tmp_path / "f")
        file.close()
        file.close()
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            file.write(b"x")

    def test_no_descriptor_is_given_away(self, tmp_path):
        with HashingFile(tmp_path / "f") as file, pytest.raises(io.UnsupportedOperation):
            file.fileno()


class TestKeptFile:
    @pytest.mark.parametrize("size", [1, 777, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5])
    def test_the_longest_beginning_with_a_mark_is_kept_and_the_digest_is_that_of_the_whole(
        self, tmp_path, size
    ):
        data, marks = contents(3 * size), []
        with pytest.raises(KeyboardInterrupt), KeptFile(tmp_path / "f", []) as file:  # noqa: PT012
            for start in (0, size):
                file.write(data[start : start + size])
                marks.append(file.mark())
            file.write(b"half of the next")
            raise KeyboardInterrupt
        assert marks == [(n, hashlib.sha256(data[:n]).hexdigest()) for n in (size, 2 * size)]
        with KeptFile(tmp_path / "f", marks) as file:
            assert file.kept == file.tell() == 2 * size
            file.write(data[2 * size :])
        assert (tmp_path / "f").read_bytes() == data
        assert file.sha256 == hashlib.sha256(data).hexdigest()

    def test_what_has_another_digest_or_is_missing_is_not_kept(self, tmp_path):
        (tmp_path / "f").write_bytes(b"abcdef")
        marks = [(n, hashlib.sha256(b"abcxef___"[:n]).hexdigest()) for n in (2, 3, 5, 9)]
        with KeptFile(tmp_path / "f", marks) as file:
            assert file.kept == 3
        assert (tmp_path / "f").read_bytes() == b"abc"

    @pytest.mark.parametrize("is_on_another_disk", [False, True])
    def test_an_outbox_takes_it_over(self, store, tmp_path, monkeypatch, is_on_another_disk):
        with KeptFile(tmp_path / "f", []) as file:
            file.write(b"weights")
        with store.outbox() as outbox, monkeypatch.context() as patch:
            if is_on_another_disk:
                patch.setattr(Path, "rename", refused(OSError(errno.EXDEV, "another disk")))
            outbox.adopt(file, "model.safetensors")
            patch.undo()
            patch.setattr(outbox_module, "digest_file", refused(AssertionError("hashed again")))
            artifact = outbox.publish("checkpoint", {})
        assert not (tmp_path / "f").exists()
        assert (artifact.path / "model.safetensors").read_bytes() == b"weights"
        assert store.verify().sound
        with store.outbox() as outbox:
            outbox.write_text("taken", "")
            with pytest.raises(StoreError, match="already in the outbox"):
                outbox.adopt(file, "taken")


def refused(error: BaseException) -> Callable[..., object]:
    """A function that raises ``error``."""

    def refuse(*_: object) -> object:
        raise error

    return refuse


class TestWaysIn:
    @pytest.mark.parametrize("size", [0, 5, 3 * BLOCK_BYTES + 1])
    def test_every_way_in_gives_the_same_artifact(self, store, tmp_path, size):
        data = contents(size)
        (tmp_path / "source").write_bytes(data)
        digests = set()
        for way in ("create", "copy", "direct"):
            with store.outbox() as outbox:
                if way == "create":
                    with outbox.create("sub/f") as file:
                        file.write(data)
                elif way == "copy":
                    outbox.copy_in(tmp_path / "source", "sub/f")
                else:
                    (outbox.payload / "sub").mkdir()
                    (outbox.payload / "sub" / "f").write_bytes(data)
                artifact = outbox.publish("kind", {})
            assert (artifact.path / "sub" / "f").read_bytes() == data
            assert artifact.record.files[0].sha256 == hashlib.sha256(data).hexdigest()
            digests.add(artifact.digest)
        assert len(digests) == 1

    def test_json_is_written_the_same_way_for_equal_values(self, store):
        with store.outbox() as outbox:
            outbox.write_json("a", {"x": 1, "y": [1.5, "ü"]})
            outbox.write_json("b", {"y": [1.5, "ü"], "x": 1})
            artifact = outbox.publish("kind", {})
        first, second = artifact.record.files
        assert first.sha256 == second.sha256
        assert json.loads((artifact.path / "a").read_text(encoding="utf-8")) == {"x": 1, "y": [1.5, "ü"]}

    def test_a_file_changed_after_it_was_hashed_is_hashed_again(self, store):
        with store.outbox() as outbox:
            outbox.write_text("f", "one")
            (outbox.payload / "f").write_text("two")
            artifact = outbox.publish("kind", {})
        assert artifact.record.files[0].sha256 == hashlib.sha256(b"two").hexdigest()

    def test_a_linked_source_is_copied_not_linked(self, store, tmp_path):
        (tmp_path / "blob").write_text("weights")
        (tmp_path / "link").symlink_to("blob")
        with store.outbox() as outbox:
            outbox.copy_in(tmp_path / "link", "weights")
            artifact = outbox.publish("kind", {})
        assert not (artifact.path / "weights").is_symlink()
        assert (tmp_path / "blob").stat().st_nlink == 1

    @pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo])
    def test_a_source_that_is_no_file_is_a_data_error(self, store, tmp_path, make):
        make(tmp_path / "source")
        with store.outbox() as outbox, pytest.raises(DataError, match="source"):
            outbox.copy_in(tmp_path / "source", "f")

    def test_a_source_that_grows_while_it_is_copied_is_refused(self, store, tmp_path, monkeypatch):
        source = tmp_path / "source"
        source.write_bytes(b"0" * BLOCK_BYTES)
        readv = os.readv

        def grow(descriptor: int, buffers: list[memoryview]) -> int:
            with source.open("ab") as stream:
                stream.write(b"1" if source.stat().st_size < BLOCK_BYTES + 3 else b"")
            return readv(descriptor, buffers)

        monkeypatch.setattr("ingot.artifacts.hashing.os.readv", grow)
        with store.outbox() as outbox, pytest.raises(DataError, match="changed while"):
            outbox.copy_in(source, "f")

    def test_a_reflink_is_used_where_the_disk_has_it_and_hashed_all_the_same(
        self, store, tmp_path, monkeypatch
    ):
        data = contents(BLOCK_BYTES + 9)
        (tmp_path / "source").write_bytes(data)

        def clone(target: int, request: int, source: int) -> int:
            assert request == 0x40049409
            os.sendfile(target, source, 0, len(data))
            return 0

        monkeypatch.setattr(hashing.fcntl, "ioctl", clone)
        monkeypatch.setattr("ingot.artifacts.hashing.os.readv", None)  # a copy would call it
        with store.outbox() as outbox:
            outbox.copy_in(tmp_path / "source", "f")
            artifact = outbox.publish("kind", {})
        assert artifact.record.files[0].sha256 == hashlib.sha256(data).hexdigest()
        assert artifact.record.files[0].size == len(data)


class TestRefused:
    @pytest.mark.parametrize(
        "name",
        [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            ".",
            "a\\b",
            "a\nb",
            "a\0b",
            "x" * 256,
            "e\u0301",
        ],
    )
    def test_names_that_some_file_system_would_not_keep(self, store, name):
        with store.outbox() as outbox, pytest.raises(StoreError, match="file name"):
            outbox.create(name)

    @given(st.text(max_size=30))
    def test_a_name_that_passes_stays_below_the_payload(self, name):
        try:
            check_relative(name)
        except StoreError:
            return
        base = Path("/payload")
        assert Path(os.path.normpath(base / name)).is_relative_to(base)
        assert os.path.normpath(base / name) == f"{base}/{name}"

    def test_two_names_that_differ_only_in_case(self, store):
        with store.outbox() as outbox:
            outbox.write_text("Model.onnx", "1")
            outbox.write_text("model.onnx", "2")
            with pytest.raises(StoreError, match="letter case"):
                outbox.publish("kind", {})

    def test_a_name_that_is_taken(self, store):
        with store.outbox() as outbox:
            outbox.write_text("f", "1")
            with pytest.raises(StoreError, match="already"):
                outbox.write_text("f", "2")

    def test_an_artifact_without_files(self, store):
        with store.outbox() as outbox, pytest.raises(StoreError, match="nothing was written"):
            outbox.publish("kind", {})

    def test_a_file_that_is_still_open(self, store):
        with store.outbox() as outbox, outbox.create("f") as file:
            file.write(b"x")
            with pytest.raises(StoreError, match="f is still being written"):
                outbox.publish("kind", {})

    def test_publishing_twice(self, store):
        with store.outbox() as outbox:
            outbox.write_text("f", "1")
            outbox.publish("kind", {})
            with pytest.raises(StoreError, match="already"):
                outbox.publish("kind", {})

    @pytest.mark.parametrize("facts", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
    def test_facts_that_are_not_plain_json(self, store, facts):
        with store.outbox() as outbox:
            outbox.write_text("f", "1")
            with pytest.raises(StoreError, match="not plain JSON"):
                outbox.publish("kind", facts)
        assert store.digests() == []

    def test_symbolic_links_hard_links_and_pipes(self, store, tmp_path):
        (tmp_path / "elsewhere").write_text("x")
        for make in (
            lambda path: path.symlink_to(tmp_path / "elsewhere"),
            lambda path: path.hardlink_to(tmp_path / "elsewhere"),
            os.mkfifo,
        ):
            with store.outbox() as outbox:
                outbox.write_text("good", "1")
                make(outbox.payload / "bad")
                with pytest.raises(StoreError, match="bad"):
                    outbox.publish("kind", {})
        assert store.digests() == []


class TestLeaving:
    def test_nothing_is_left_of_what_was_not_published(self, store):
        with store.outbox() as outbox:
            outbox.write_text("f", "1")
        assert list((store.root / "tmp").iterdir()) == []
        assert store.digests() == []

    def test_an_exception_passes_and_leaves_nothing(self, store):
        outbox = store.outbox()
        with pytest.raises(KeyError), outbox:
            raise KeyError
        assert list((store.root / "tmp").iterdir()) == []

    def test_opening_the_store_leaves_a_living_outbox_alone(self, store):
        with store.outbox() as outbox:
            outbox.write_text("f", "1")
            Store.open(store.root)
            assert outbox.publish("kind", {}).record.size_bytes == 1
