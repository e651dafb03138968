"""Disks that refuse: full, failing, limited and read-only ones give one clear error and harm nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import StoreError
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text('{"model": "bpe"}')
    return path


def _build(store: Store, source: Path) -> str:
    with store.outbox() as outbox:
        with outbox.create("model") as file:
            file.write(b"m" * 3_000_000)
        outbox.copy_in(source, "copied")
        outbox.write_json("config.json", {})
        (outbox.payload / "direct").write_bytes(b"d")
        artifact = outbox.publish("checkpoint", {})
    return store.record(Action("k", "load", {}, artifact.digest, {})).output


def test_nothing_is_named_before_the_disk_has_it(source, store, monkeypatch):
    """The order that survives a power cut: bytes, directories, rename, parent, record, rename, parent."""
    seen: list[tuple[str, object]] = []

    def watch(name: str, subject: Callable[..., object]) -> None:
        genuine = getattr(os, name)

        def called(*arguments: object, **options: object) -> object:
            seen.append((name, subject(*arguments)))
            return genuine(*arguments, **options)

        monkeypatch.setattr(os, name, called)

    watch("fsync", lambda descriptor: os.fstat(descriptor).st_ino)
    watch("rename", lambda _, target: Path(target).parent.name)
    _build(store, source)

    tree = store.trees / store.digests()[0]
    placed, recorded = seen.index(("rename", "trees")), seen.index(("rename", "actions"))
    before = {subject for name, subject in seen[:placed] if name == "fsync"}
    assert {path.stat().st_ino for path in (tree, *tree.rglob("*"))} <= before
    assert ("fsync", store.trees.stat().st_ino) in seen[placed:recorded]
    record = store.root / "actions" / "k.json"
    assert ("fsync", record.stat().st_ino) in seen[placed:recorded]
    assert ("fsync", record.parent.stat().st_ino) in seen[recorded:]


class TestRefusedCalls:
    """A system call that fails, at every place where it is made, in turn."""

    @pytest.mark.parametrize(
        ("call", "code", "message"),
        [
            ("write", errno.ENOSPC, "no space left"),
            ("write", errno.EDQUOT, "no space left"),
            ("write", errno.EIO, "Input/output error"),
            ("fsync", errno.EIO, "Input/output error"),
            ("fsync", errno.ENOSPC, "no space left"),
            ("fdatasync", errno.EIO, "Input/output error"),
        ],
    )
    def test_it_is_one_clear_error_and_nothing_is_published_by_halves(
        self, source, tmp_path, store, monkeypatch, call, code, message
    ):
        monkeypatch.setattr("ingot.artifacts.hashing.SYNC_BYTES", 1 << 20)
        expected = _build(Store.open(tmp_path / "undisturbed"), source)
        genuine = getattr(os, call)
        failed_at = 0
        for nth in range(100):
            left = nth

            def refuse(*arguments: object) -> object:
                nonlocal left
                left -= 1
                if left == -1:
                    raise OSError(code, os.strerror(code))
                return genuine(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(os, call, refuse)
                complaint = _complaint(store, source)
            assert list((store.root / "tmp").iterdir()) == []
            assert store.verify().sound
            if complaint is None:
                break
            assert message in complaint
            failed_at += 1
            _forget_everything(store)
        assert failed_at >= (1 if call == "fdatasync" else 3)
        assert store.digests() == [expected]

    def test_a_failed_stat_memory_costs_a_hash_and_not_the_build(self, source, tmp_path, store, monkeypatch):
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("ingot.artifacts.stats._save", full)
            _build(store, source)
        assert store.lookup("k") is not None


def _complaint(store: Store, source: Path) -> str | None:
    try:
        _build(store, source)
    except StoreError as error:
        return str(error)
    return None


def _forget_everything(store: Store) -> None:
    for path in (store.root / "actions").iterdir():
        path.unlink()
    store.gc()
    assert store.digests() == []


FULL_DISK = """
import sys
from pathlib import Path
from ingot.artifacts.errors import StoreError
from ingot.artifacts.store import Store
root = Path(sys.argv[1])
store = Store.open(root / "store")
with store.outbox() as outbox:
    outbox.write_text("small", "fits")
    small = outbox.publish("checkpoint", {})
for way in ("create", "direct"):
    try:
        with store.outbox() as outbox:
            if way == "create":
                with outbox.create("big") as file:
                    for _ in range(64):
                        file.write(b"x" * (1 << 20))
            else:
                with (outbox.payload / "big").open("wb") as stream:
                    stream.write(b"x" * (64 << 20))
            outbox.publish("checkpoint", {})
    except StoreError as error:
        print(error)
    assert list((root / "store" / "tmp").iterdir()) == []
assert store.digests() == [small.digest] and store.verify().sound
with store.outbox() as outbox:
    outbox.write_text("after", "there is room again")
    outbox.publish("checkpoint", {})
"""


def test_a_full_disk_is_one_clear_error_and_the_store_goes_on_working(tmp_path, private_mount):
    done = private_mount('mount -t tmpfs -o size=8m none "$folder"', FULL_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("no space left on the disk" in line and "ingot gc" in line for line in lines)


def test_a_file_size_limit_is_a_clear_error_too(tmp_path):
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))\n" + FULL_DISK
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("larger than the file system or its limits allow") == 2


READ_ONLY = """
import logging, sys
from pathlib import Path
from ingot.artifacts.errors import StoreError
from ingot.artifacts.files import size_of
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store
root = Path(sys.argv[1])
store = Store.open(root)
action, artifact = store.lookup("k")
print(artifact.digest, store.verify().sound, store.file_digest(artifact.path / "weights"))
attempts = {
    "outbox": lambda: store.outbox().__enter__(),
    "record": lambda: store.record(Action("new", "load", {}, artifact.digest, {})),
    "job": lambda: store.job_dir("new"),
    "run": lambda: store.run_dir("new"),
    "gc": lambda: store.gc(0),
    "pin": lambda: store.pin(artifact.digest, "why"),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except StoreError as error:
        print(name, error)
"""


class TestReadOnly:
    def test_a_store_on_a_read_only_disk_is_read_and_says_so_when_written(
        self, store, publish, private_mount
    ):
        artifact = publish(store, key="k", weights="abc")
        shell = 'mount --bind "$folder" "$folder"; mount -o remount,bind,ro "$folder"'
        done = private_mount(shell, READ_ONLY, store.root)
        assert done.returncode == 0, done.stderr
        first, *errors = done.stdout.splitlines()
        assert first == f"{artifact.digest} True {hashlib.sha256(b'abc').hexdigest()}"
        assert [line.split()[0] for line in errors] == ["outbox", "record", "job", "run", "gc", "pin"]
        assert all("cannot write: read-only file system" in line and "--store" in line for line in errors)

    def test_a_new_store_cannot_be_made_on_one(self, tmp_path, private_mount):
        shell = 'mount -t tmpfs -o ro none "$folder"'
        script = (
            "import sys; from pathlib import Path; from ingot.artifacts.store import Store\n"
            "Store.open(Path(sys.argv[1]) / 'store')"
        )
        done = private_mount(shell, script, tmp_path)
        assert "StoreError: cannot write: read-only file system" in done.stderr

    def test_a_directory_without_rights_is_read_and_says_so_when_written(self, powerless, publish):
        store = Store.open(powerless / "store")
        artifact = publish(store, key="k", weights="abc")
        folders = [path for path in store.root.rglob("*") if path.is_dir() and "trees/" not in str(path)]
        for path in [store.root, *folders]:
            path.chmod(0o555)
        again = Store.open(powerless / "store")
        assert again.lookup("k")[1] == artifact
        assert again.file_digest(artifact.path / "weights") == hashlib.sha256(b"abc").hexdigest()
        for attempt in (
            lambda: again.outbox().__enter__(),
            lambda: again.record(Action("new", "load", {}, artifact.digest, {})),
            lambda: again.run_dir("new"),
            lambda: Store.open(store.root / "inner"),
        ):
            with pytest.raises(StoreError, match="permission denied"):
                attempt()

    @pytest.mark.parametrize("path", ["file", "file/below", "/proc/ingot-store"])
    def test_a_path_that_cannot_be_a_directory_is_refused_by_name(self, tmp_path, path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StoreError, match=str(tmp_path / path)):
            Store.open(tmp_path / path)
        assert (tmp_path / "file").read_text() == "in the way"


class TestWithoutRoot:
    """Renaming a directory needs write permission on it, for everybody but root."""

    def test_publishing_reading_quarantine_and_collection_work(self, powerless, publish):
        store = Store.open(powerless / "store")
        first, second = publish(store, key="a", weights="1"), publish(store, key="b", weights="2")
        assert os.geteuid() != 0
        with pytest.raises(PermissionError):
            (first.path / "weights").write_text("overwritten")
        store.copy_out(first, powerless / "out")
        store.quarantine(first.digest, "for the test")
        os.utime(store.stat_entry(second.digest), (1, 1))
        report = store.gc(0)
        assert report.trees == (second.digest,)
        assert list((store.root / "trash").iterdir()) == []
