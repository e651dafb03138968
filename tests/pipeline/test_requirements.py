"""Requirements: libraries in their ranges, disk and memory, all told at once with what to do."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import RequirementError
from ingot.pipeline import keys, requirements
from ingot.pipeline.graph import Leaf, Node
from ingot.pipeline.predict import Prediction
from ingot.stages import base
from ingot.stages.base import Requirement
from ingot.targets import gpu

if TYPE_CHECKING:
    from pathlib import Path

QUANTIZE = Node("q", "quantize.rtn", base.get("quantize.rtn").params(), {"model": "load"})


@pytest.fixture(autouse=True)
def _forget() -> None:
    """What was found of a library is remembered for a process; tests change it."""
    requirements._library.cache_clear()


def versions(monkeypatch: pytest.MonkeyPatch, **found: str | None) -> None:
    real = keys.installed_version
    monkeypatch.setattr(
        requirements, "installed_version", lambda name: found[name] if name in found else real(name)
    )


def test_what_is_installed_in_its_range_is_not_missing() -> None:
    assert requirements.of_node(QUANTIZE) == ()


@pytest.mark.parametrize("stage", sorted(base.BUILTIN))
def test_every_library_that_a_built_in_stage_declares_has_a_declared_range(stage: str) -> None:
    declared = [text.partition(";")[0] for text in importlib.metadata.requires("ingot") or ()]
    names = {text for tool in base.get(stage).tools for text in declared if text.startswith(tool)}
    assert len(names) >= len(base.get(stage).tools)


def test_a_source_tree_without_metadata_declares_no_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    monkeypatch.setattr(requirements, "_declared", requirements._declared.__wrapped__)
    assert requirements._declared("ingot") == {}
    assert requirements.of_node(QUANTIZE) == ()
    versions(monkeypatch, numpy=None)
    requirements._library.cache_clear()
    (found,) = requirements.of_node(QUANTIZE)
    assert found.fix == "pip install 'numpy'"


def test_a_library_that_is_not_there_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions(monkeypatch, numpy=None)
    (found,) = requirements.of_node(QUANTIZE)
    assert found.name.startswith("numpy ")
    assert found.fix.startswith("pip install 'numpy")
    assert ">=2" in found.fix


@pytest.mark.parametrize(
    ("library", "extra"), [("executorch", "arm"), ("torchao", "arm"), ("tensorrt_rtx", "nvidia")]
)
def test_a_library_of_an_extra_is_brought_by_that(
    library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(monkeypatch, **{library: None})
    assert requirements._library(library, ">=1").fix == f"pip install 'ingot[{extra}]'"


def test_a_library_outside_its_range_is_named_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, numpy="1.26.4")
    (found,) = requirements.of_node(QUANTIZE)
    assert "found 1.26.4" in found.name


def test_a_local_version_counts_as_its_public_one(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, numpy="2.1.0+cpu")
    assert requirements.of_node(QUANTIZE) == ()


def test_a_stage_may_ask_for_more_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Requirement("a compiler", met=False, fix="apt install gcc")
    found = replace(
        base.get("quantize.rtn"), requires=lambda _params: (compiler, replace(compiler, met=True))
    )
    monkeypatch.setattr(base, "get", lambda _name: found)
    assert requirements.of_node(QUANTIZE) == (compiler,)


@pytest.mark.parametrize(
    ("device", "gpus", "built_for", "lacking"),
    [
        ("cuda", ("a GPU",), "13.0", []),
        ("cuda", (), "13.0", ["a CUDA device (device: cuda, ingot.yaml:4)"]),
        ("cuda", ("a GPU",), None, ["a torch that is built for CUDA (device: cuda, ingot.yaml:4)"]),
        ("auto", (), None, []),
    ],
)
def test_a_stage_that_is_told_to_compute_on_a_gpu_needs_one_and_a_torch_for_it(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    gpus: tuple[str, ...],
    built_for: str | None,
    lacking: list[str],
) -> None:
    monkeypatch.setattr(gpu, "probe", lambda: gpus)
    monkeypatch.setattr(gpu, "cuda_of_torch", lambda: built_for)
    params = base.get("prune.wanda").params(device=device, calibration="text.txt", sparsity=0.5)
    node = Node("prune", "prune.wanda", params, {"model": "load"}, origins={"device": "ingot.yaml:4"})
    assert [each.name for each in requirements.of_node(node)] == lacking


def test_where_an_output_will_run_is_nothing_that_making_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "probe", lambda: ())
    params = base.get("export.aoti_cuda").params(device="cuda")
    node = Node("export", "export.aoti_cuda", params, {"model": "load"}, origins={"device": "ingot.yaml:4"})
    assert requirements.of_node(node) == ()


def test_a_runtime_that_the_target_does_not_have_would_mislead(monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = Leaf("t", "p", "a", "q", "c", requires={"onnxruntime": ">=1.26,<1.32"})
    versions(monkeypatch, onnxruntime="1.25.0")
    (found,) = requirements.of_leaf(leaf)
    assert found.name == "onnxruntime >=1.26,<1.32 (found 1.25.0)"


def test_all_that_is_missing_is_told_in_one_error() -> None:
    missing = [
        Requirement("numpy >=2", met=False, fix="pip install 'numpy>=2'"),
        Requirement("a device", met=False, fix="plug one in"),
        Requirement("torch", met=False, fix="pip install 'torch'"),
        Requirement("numpy >=2", met=False, fix="pip install 'numpy>=2'"),
    ]
    with pytest.raises(RequirementError) as caught:
        requirements.raise_missing(missing)
    assert caught.value.what == "this machine lacks numpy >=2, a device, torch"
    assert caught.value.fix == "pip install 'numpy>=2' 'torch'; plug one in"
    assert caught.value.exit_code == 2


def test_nothing_missing_raises_nothing() -> None:
    requirements.raise_missing([])


def prediction(held_bytes: int = 0, output_bytes: int = 0) -> Prediction:
    return Prediction(1.0, 1.0, held_bytes, held_bytes, output_bytes)


@pytest.mark.parametrize(("free", "met"), [(5.9e9, False), (6.1e9, True)])
def test_disk_space_is_asked_for_all_that_waits_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, met: bool
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(requirements.shutil, "disk_usage", lambda _path: usage)
    expected = {"a": prediction(output_bytes=2 * 10**9), "b": prediction(output_bytes=4 * 10**9)}
    found = requirements.of_room(expected, tmp_path, 10**9)
    assert (found == ()) is met
    assert met or "6.00" in found[0].name.partition(" of disk space")[0]
    assert requirements.of_room({}, tmp_path, 0) == ()


@pytest.mark.parametrize(("memory_bytes", "met"), [(10**9, False), (3 * 10**9, True)])
def test_memory_is_asked_for_the_node_that_holds_most(tmp_path: Path, memory_bytes: int, met: bool) -> None:
    expected = {"a": prediction(10**9), "b": prediction(2 * 10**9), "c": prediction(10**6)}
    found = requirements.of_room(expected, tmp_path, memory_bytes)
    assert (found == ()) is met
    if not met:
        assert " of memory for b (estimated; 1.00" in found[0].name
        assert "--force" in found[0].fix
