"""Requirements: libraries in their ranges, disk and memory, all told at once with what to do."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import RequirementError
from ingot.pipeline import keys, requirements
from ingot.pipeline.graph import Graph, Leaf, Node
from ingot.stages import base
from ingot.stages.base import Requirement
from ingot.targets.host import Host

if TYPE_CHECKING:
    from pathlib import Path

HOST = Host("linux", "x86_64", "a processor", (), 8, 64 << 30)
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


def test_a_library_that_is_not_there_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions(monkeypatch, numpy=None)
    (found,) = requirements.of_node(QUANTIZE)
    assert found.name.startswith("numpy ")
    assert found.fix.startswith("pip install 'numpy")
    assert ">=2" in found.fix


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


LOAD = Node("load", "load", base.get("load").params(model="m"))
REFERENCE = Node(
    "r", "validate.reference", base.get("validate.reference").params(evaluation="e"), {"model": "load"}
)
EXPORT = Node("e", "export.onnx", base.get("export.onnx").params(), {"model": "load"})
SMALL = Node("s", "export.onnx", base.get("export.onnx").params(), {"model": "q"})
GRAPH = Graph(
    {node.name: node for node in (LOAD, QUANTIZE, REFERENCE, EXPORT, SMALL)},
    {},
    facts={"parameters": 1_000_000_000, "weight_bytes": 2_000_000_000},
)


@pytest.mark.parametrize(
    ("node", "low", "high"),
    [(LOAD, 2.0e9, 2.0e9), (QUANTIZE, 1.0e9, 1.5e9), (EXPORT, 4.0e9, 4.0e9), (SMALL, 0.5e9, 1.5e9)],
)
def test_the_size_of_an_output_is_known_from_the_headers(node: Node, low: float, high: float) -> None:
    assert low <= requirements.output_bytes(GRAPH, node) <= high


@pytest.mark.parametrize(("free", "met"), [(6.0e9, False), (9.0e9, True)])
def test_disk_space_is_asked_for_what_waits_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, met: bool
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(requirements.shutil, "disk_usage", lambda _path: usage)
    found = requirements.of_machine(GRAPH, [LOAD, QUANTIZE, EXPORT], tmp_path, HOST)
    assert (found == ()) is met
    assert requirements.of_machine(GRAPH, [], tmp_path, HOST) == ()


@pytest.mark.parametrize(("node", "met"), [(REFERENCE, False), (QUANTIZE, True)])
def test_memory_for_all_weights_is_asked_where_all_weights_are_held(
    tmp_path: Path, node: Node, met: bool
) -> None:
    found = requirements.of_machine(GRAPH, [node], tmp_path, replace(HOST, memory_bytes=4 * 10**9))
    assert (found == ()) is met
