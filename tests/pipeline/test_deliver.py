"""Deliveries: what they hold, when they appear, and what never happens to an earlier one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts import faults
from ingot.artifacts.errors import CorruptError, StoreError
from ingot.pipeline import deliver
from ingot.pipeline.deliver import DELIVERED, ON_REQUEST, deliver_targets

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from ingot.artifacts.manifest import Artifact
    from ingot.artifacts.store import Store
    from ingot.pipeline.report.model import RunReport

SESSION = {"schema": "ingot/session/v1", "format": "onnx", "task": "causal-lm", "inputs": ["input_ids"]}
Deliver = Callable[..., "RunReport"]


def publish(store: Store, content: bytes) -> Artifact:
    with store.outbox() as outbox:
        with outbox.create("model.onnx") as stream:
            stream.write(content)
        outbox.write_json("ingot.json", SESSION)
        outbox.write_text("tokens/tokenizer.json", "{}")
        return outbox.publish("onnx", {"task": "causal-lm"})


@pytest.fixture
def ship(store: Store, samples: ModuleType, tmp_path: Path) -> Deliver:
    """``ship(status="pass", content=b"graph", statuses=DELIVERED, run="r1")``: delivers the target `cpu`."""
    published: dict[bytes, Artifact] = {}

    def make(
        status: str = "pass", content: bytes = b"graph", statuses: frozenset[str] = DELIVERED, run: str = "r1"
    ) -> RunReport:
        artifact = published.get(content) or publish(store, content)
        published[content] = artifact
        target = samples.target("cpu", status=status, artifact=artifact.digest, delivery=None)
        report = dataclasses.replace(samples.report(target), run=run)
        return deliver_targets(store, report, {"cpu": artifact}, tmp_path / "out", statuses)

    return make


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_pass_is_delivered_with_all_that_belongs_to_it(ship: Deliver, tmp_path: Path) -> None:
    report = ship()
    place = tmp_path / "out" / "cpu"
    assert report.targets["cpu"].delivery == str(place)
    assert tree(place) == {
        "model.onnx", "ingot.json", "tokens/tokenizer.json", "README.md", "manifest.json", "report.html",
    }  # fmt: skip
    assert (place / "model.onnx").read_bytes() == b"graph"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cpu"}
    assert str(place) in (place / "report.html").read_text("utf-8")


def test_the_manifest_lists_every_file_with_its_digest(ship: Deliver, tmp_path: Path) -> None:
    ship()
    place = tmp_path / "out" / "cpu"
    manifest = json.loads((place / "manifest.json").read_text("utf-8"))
    assert {file["path"] for file in manifest["files"]} == tree(place) - {"manifest.json"}
    for file in manifest["files"]:
        data = (place / file["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])


def test_the_manifest_says_where_it_is_from_and_what_it_measured(
    ship: Deliver, tmp_path: Path, samples: ModuleType
) -> None:
    report = ship()
    manifest = json.loads((tmp_path / "out" / "cpu" / "manifest.json").read_text("utf-8"))
    target = report.targets["cpu"]
    assert manifest["schema"] == "ingot/delivery/v1"
    assert manifest["status"] == manifest["gates"]["verdict"] == "pass"
    assert manifest["sources"] == [{"uri": "ingot-tiny", "license": "apache-2.0", "artifact": "9a" * 32}]
    assert manifest["lineage"] == list(target.lineage)
    assert set(manifest["measurements"]["perplexity"]) == {
        "reference", "value", "delta", "low", "high", "n", "tokens", "documents", "unit",
    }  # fmt: skip
    assert [check["metric"] for check in manifest["gates"]["checks"]] == [c.metric for c in target.checks]
    assert manifest["runtime"] == {"format": "onnx", "requires": {"onnxruntime": ">=1.26", "opset": "21"}}


def test_the_manifest_holds_no_path_of_this_machine(ship: Deliver, tmp_path: Path) -> None:
    ship()
    assert str(tmp_path) not in (tmp_path / "out" / "cpu" / "manifest.json").read_text("utf-8")
    assert str(tmp_path) not in (tmp_path / "out" / "cpu" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("status", ["fail", "inconclusive", "error"])
def test_what_did_not_pass_is_not_delivered(status: str, ship: Deliver, tmp_path: Path) -> None:
    report = ship(status)
    assert report.targets["cpu"].delivery is None
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("status", ["fail", "inconclusive", "unverified"])
def test_what_did_not_pass_is_delivered_under_another_name_and_says_so(
    status: str, ship: Deliver, tmp_path: Path
) -> None:
    report = ship(status, statuses=DELIVERED | ON_REQUEST)
    place = tmp_path / "out" / "cpu.unverified"
    assert report.targets["cpu"].delivery == str(place)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu.unverified"]
    assert json.loads((place / "manifest.json").read_text("utf-8"))["status"] == status
    assert f"**{status}**" in (place / "README.md").read_text("utf-8")


def test_an_unverified_target_is_delivered_unasked(ship: Deliver, tmp_path: Path) -> None:
    ship("unverified")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu.unverified"]


def test_a_later_pass_replaces_an_earlier_one(ship: Deliver, tmp_path: Path) -> None:
    ship(content=b"old")
    (tmp_path / "out" / "cpu" / "left-over").write_text("")
    ship(content=b"new")
    assert (tmp_path / "out" / "cpu" / "model.onnx").read_bytes() == b"new"
    assert not (tmp_path / "out" / "cpu" / "left-over").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu"]


def test_a_failing_run_sets_an_earlier_pass_aside_and_a_later_one_clears_up(
    ship: Deliver, tmp_path: Path
) -> None:
    ship(content=b"old")
    ship("fail", content=b"bad")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu.previous"]
    assert (tmp_path / "out" / "cpu.previous" / "model.onnx").read_bytes() == b"old"
    ship("fail", content=b"bad", statuses=DELIVERED | ON_REQUEST)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cpu.previous", "cpu.unverified"}
    ship(content=b"new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu"]


def test_an_equal_delivery_is_left_as_it_is(ship: Deliver, tmp_path: Path) -> None:
    ship(run="r1")
    place = tmp_path / "out" / "cpu"
    (place / "verifications").mkdir()
    before = {name: (place / name).stat().st_mtime_ns for name in tree(place)}
    report = ship(run="r2")
    assert report.targets["cpu"].delivery == str(place)
    assert {name: (place / name).stat().st_mtime_ns for name in tree(place)} == before
    assert (place / "verifications").is_dir()


@pytest.mark.parametrize("name", ["model.onnx", "README.md", "tokens/tokenizer.json"])
def test_a_delivery_that_was_changed_is_made_again(name: str, ship: Deliver, tmp_path: Path) -> None:
    ship()
    path = tmp_path / "out" / "cpu" / name
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"x" + whole[1:])
    ship(run="r2")
    assert path.read_bytes()[:1] == whole[:1]
    path.unlink()
    ship(run="r3")
    assert path.exists()


def test_a_directory_that_is_no_delivery_is_in_the_way(ship: Deliver, tmp_path: Path) -> None:
    precious = tmp_path / "out" / "cpu" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    for status in ("pass", "fail"):
        with pytest.raises(StoreError, match="in the way"):
            ship(status)
    assert precious.read_text() == "years of work"


def test_a_corrupt_artifact_is_never_delivered(
    store: Store, samples: ModuleType, tmp_path: Path, ship: Deliver
) -> None:
    ship(content=b"old")
    artifact = publish(store, b"graph two")
    path = artifact.path / "model.onnx"
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"graph 2wo")
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = samples.report(samples.target("cpu", status="pass", artifact=artifact.digest))
    with pytest.raises(CorruptError):
        deliver_targets(store, report, {"cpu": artifact}, tmp_path / "out")
    assert (tmp_path / "out" / "cpu" / "model.onnx").read_bytes() == b"old"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu"]


def test_an_error_while_writing_leaves_the_earlier_delivery_whole(
    ship: Deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(content=b"old")

    def full(*_args: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deliver, "render_card", full)
    with pytest.raises(StoreError, match="no space left"):
        ship(content=b"new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu"]
    assert (tmp_path / "out" / "cpu" / "model.onnx").read_bytes() == b"old"


@pytest.mark.parametrize("effect", ["eio", "enospc"])
@pytest.mark.parametrize("place", [*faults.DELIVERY, "write", "fsync", "fsync@6"])
def test_a_disk_that_fails_at_any_step_is_told_and_leaves_one_whole_delivery(
    ship: Deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, effect: str
) -> None:
    ship(content=b"new", statuses=frozenset())  # it is published: what fails below is the delivery
    ship(content=b"old")
    name, _, nth = place.partition("@")
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, f"{name}={effect}@{nth or 1}")
        with pytest.raises(StoreError, match="no space left" if effect == "enospc" else "Input/output"):
            ship(content=b"new")
    (whole,) = [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
    manifest = json.loads((whole / "manifest.json").read_text("utf-8"))
    for file in manifest["files"]:
        assert hashlib.sha256((whole / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    assert (whole / "model.onnx").read_bytes() == (b"new" if name == "delivery.renamed" else b"old")
    ship(content=b"new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu"]
    assert (tmp_path / "out" / "cpu" / "model.onnx").read_bytes() == b"new"


def test_what_a_killed_run_left_goes_and_what_it_moved_comes_back(ship: Deliver, tmp_path: Path) -> None:
    ship(content=b"old")
    out = tmp_path / "out"
    shutil.copytree(out / "cpu", out / ".cpu.0123456789abcdef.new")
    (out / "cpu").rename(out / ".cpu.fedcba9876543210.old")
    ship("fail")
    assert [path.name for path in out.iterdir()] == ["cpu.previous"]
    assert (out / "cpu.previous" / "model.onnx").read_bytes() == b"old"


def test_targets_without_an_artifact_are_skipped(store: Store, samples: ModuleType, tmp_path: Path) -> None:
    report = samples.report(samples.target("cpu", status="error"))
    delivered = deliver_targets(store, report, {}, tmp_path / "out", DELIVERED | ON_REQUEST)
    assert delivered.targets["cpu"].delivery is None
    assert list((tmp_path / "out").iterdir()) == []
