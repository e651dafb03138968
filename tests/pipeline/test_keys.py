"""Keys: what changes them, and what must not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import DataError
from ingot.artifacts.schema import build, param
from ingot.artifacts.store import Store
from ingot.pipeline import keys
from ingot.pipeline.graph import Node
from ingot.stages import base
from ingot.targets.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = Host("linux", "x86_64", "a processor", ("avx2",), 8, 64 << 30)
OTHER = replace(HOST, processor="another", cores=2)
MODEL = "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def node(stage: str, *, name: str = "n", seed: int = 0, **params: object) -> Node:
    found = base.get(stage)
    return Node(name, stage, build(found.params, params), dict.fromkeys(found.inputs, "load"), seed=seed)


def key(each: Node, store: Store, host: Host = HOST, **inputs: str) -> str:
    digests = {name: inputs.get(name, MODEL) for name in each.inputs}
    return keys.key_of(keys.preimage(each, digests, keys.data_digests(each, store), host))


def reference(text: Path, **params: object) -> Node:
    return node("validate.reference", evaluation=str(text), **params)


def test_the_preimage_holds_what_the_design_lists_and_nothing_else(store: Store, tmp_path: Path) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text("held out")
    each = reference(text, window=64)
    found = keys.preimage(each, {"model": MODEL}, keys.data_digests(each, store), HOST)
    assert set(found) == {
        "schema", "stage", "version", "source", "determinism", "params", "data", "inputs", "tools",
        "platform", "host", "seed",
    }  # fmt: skip
    assert "evaluation" not in found["params"]  # type: ignore[operator]
    assert found["params"]["window"] == 64  # type: ignore[index]
    # sha256 of b"held out", by coreutils' sha256sum
    assert found["data"] == {"evaluation": "681314dd42bb7e307d7e953a96120f3da30e913bf4c40e4731ca5f5e7100e0dc"}
    assert found["inputs"] == {"model": MODEL}
    assert str(tmp_path) not in str(found)


bits = st.sampled_from([2, 3, 4, 8])
groups = st.sampled_from([0, 32, 128])


@given(bits, groups, bits, groups)
def test_keys_are_equal_exactly_when_parameters_are(
    tmp_path_factory: pytest.TempPathFactory, a: int, b: int, c: int, d: int
) -> None:
    store = Store(tmp_path_factory.getbasetemp())
    first = node("quantize.rtn", bits=a, group_size=b)
    second = node("quantize.rtn", bits=c, group_size=d)
    assert (key(first, store) == key(second, store)) == ((a, b) == (c, d))


def test_a_default_that_is_written_out_changes_nothing(store: Store) -> None:
    assert key(node("quantize.rtn"), store) == key(node("quantize.rtn", bits=4, sym=True), store)


def test_the_key_follows_the_input_and_the_seed(store: Store) -> None:
    each = node("quantize.rtn")
    assert key(each, store, model="b" * 64) != key(each, store)
    assert key(replace(each, seed=1), store) != key(each, store)


def test_the_key_does_not_follow_names_and_producers(store: Store) -> None:
    each = node("quantize.rtn")
    moved = replace(each, name="quantize@other", target="other", reason="because", inputs={"model": "merged"})
    assert key(moved, store) == key(each, store)


def test_the_key_follows_the_content_of_a_data_file_and_not_its_path(store: Store, tmp_path: Path) -> None:
    text, copy = tmp_path / "a.txt", tmp_path / "elsewhere" / "b.txt"
    text.write_text("one")
    copy.parent.mkdir()
    shutil.copy(text, copy)
    before = key(reference(text), store)
    assert key(reference(copy), store) == before
    text.write_text("two")
    assert key(reference(text), store) != before


def test_the_key_of_load_follows_the_files_and_not_the_directory(
    store: Store, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(tiny_checkpoint("llama"), first)
    shutil.copytree(first, second)
    before = key(node("load", model=str(first)), store)
    assert key(node("load", model=str(second)), store) == before
    (second / "training_args.bin").write_bytes(b"not read by load")
    assert key(node("load", model=str(second)), store) == before
    config = second / "config.json"
    config.write_text(config.read_text() + "\n")
    assert key(node("load", model=str(second)), store) != before


def test_a_data_file_that_is_gone_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        key(reference(tmp_path / "none.txt"), store)


def test_the_key_follows_the_versions_of_declared_libraries_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = node("quantize.rtn")
    before = key(each, store)
    versions = {"numpy": "1.2.3"}
    found = keys.installed_version
    monkeypatch.setattr(keys, "installed_version", lambda name: versions.get(name) or found(name))
    assert key(each, store) != before
    versions.clear()
    versions["torch"] = "1.2.3"
    assert "torch" not in base.get("quantize.rtn").tools
    assert key(each, store) == before


def test_keys_of_stages_that_read_architectures_follow_the_distributions_that_add_families(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, measures = node("quantize.rtn"), node("validate.cost")
    before = key(reads, store), key(measures, store)
    monkeypatch.setattr(keys.families, "plugin_versions", lambda: {"ingot-toy": "2.0"})
    assert keys.tool_versions(base.get("quantize.rtn"))["ingot-toy"] == "2.0"
    assert key(reads, store) != before[0]
    assert key(measures, store) == before[1]


def test_the_key_follows_the_stages_source_and_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    each = node("quantize.rtn")
    before = key(each, store)
    found = base.get("quantize.rtn")
    with monkeypatch.context() as patched:
        patched.setattr(keys, "source_digest", lambda _module: "c" * 64)
        assert key(each, store) != before
    monkeypatch.setattr(base, "get", lambda _name: replace(found, version=found.version + 1))
    assert key(each, store) != before


def test_only_a_stage_that_measures_the_machine_follows_its_fingerprint(store: Store) -> None:
    cost, quantize = node("validate.cost"), node("quantize.rtn")
    assert key(cost, store, OTHER) != key(cost, store, HOST)
    assert key(quantize, store, OTHER) == key(quantize, store, HOST)


@pytest.mark.parametrize(
    ("determinism", "changes"), [("bitwise", False), ("seeded", True), ("nondeterministic", True)]
)
def test_instruction_sets_matter_to_stages_whose_last_bits_follow_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, determinism: base.Determinism, changes: bool
) -> None:
    found = replace(base.get("quantize.rtn"), determinism=determinism)
    each = node("quantize.rtn")
    monkeypatch.setattr(base, "get", lambda _name: found)
    other = replace(HOST, isa=("avx2", "avx512f"))
    assert (key(each, store, other) != key(each, store, HOST)) is changes
    assert key(each, store, OTHER) == key(each, store, HOST)


@dataclass(frozen=True)
class Knobs:
    threads: int = param(1, doc="threads", in_key=False)
    log_level: str = param("info", doc="what is logged", in_key=False)
    files: tuple[str, ...] = param((), doc="files", is_file=True)
    file: str | None = param(None, doc="a file", is_file=True)


@pytest.fixture
def knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(base.get("quantize.rtn"), params=Knobs)  # type: ignore[arg-type]
    monkeypatch.setattr(base, "get", lambda _name: found)


@pytest.mark.usefixtures("knobs")
def test_parameters_that_are_not_of_the_key_do_not_change_it(store: Store) -> None:
    before = key(node("knobs"), store)
    assert key(node("knobs", threads=8, log_level="debug"), store) == before


@pytest.mark.usefixtures("knobs")
def test_lists_of_files_and_missing_files_are_told_apart(store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    variants: list[dict[str, object]] = [
        {}, {"file": str(one)}, {"file": str(two)}, {"files": [str(one)]},
        {"files": [str(one), str(two)]}, {"files": [str(two), str(one)]},
    ]  # fmt: skip
    assert len({key(node("knobs", **each), store) for each in variants}) == len(variants)


def test_what_was_built_from_a_file_that_changed_meanwhile_belongs_to_no_key(
    tiny_checkpoint, tmp_path, store
):
    directory = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")
    loaded = node("load", model=str(directory))
    made_of = {"data": keys.data_digests(loaded, store)}
    keys.check_unchanged(loaded, made_of, store)
    keys.check_unchanged(loaded, {}, store)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"model\.safetensors changed while n was built from it"):
        keys.check_unchanged(loaded, made_of, store)
