"""`backend:` and `python:` of a recipe: another library's stage, in an environment that the recipe names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline import keys, layers, requirements
from ingot.pipeline.assemble import build_graph
from ingot.pipeline.recipe import read_recipe
from ingot.stages.quantize.foreign.interpreter import installed
from ingot.targets.host import Host

if TYPE_CHECKING:
    from pathlib import Path

    from ingot.artifacts.store import Store
    from ingot.pipeline.graph import Graph, Node

HOST = Host("linux", "x86_64", "a processor", ("avx2",), 8, 64 << 30)
FACTS = {
    "task": "causal-lm", "architecture": "LlamaForCausalLM", "model_type": "llama",
    "parameters": 60_000_000, "weight_bytes": 120_000_000,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ckpt").mkdir()
    return tmp_path


def graph(folder: Path, text: str, *sets: str) -> Graph:
    recipe = read_recipe(parse_yaml(f"model: ckpt\n{text}", "ingot.yaml"), folder, layers.command_line(sets))
    return build_graph(recipe, FACTS, HOST)


def quantizer(found: Graph, target: str = "cpu") -> tuple[str, Any]:
    node = found.node(f"quantize@{target}")
    return node.stage, node.params


def test_a_backend_runs_the_method_as_its_algorithm_and_relative_paths_start_at_the_recipe(
    folder: Path,
) -> None:
    text = "{method: awq, backend: llmcompressor, python: env/../env/bin/python, bits: 3}"
    stage, params = quantizer(graph(folder, f"targets: [cpu]\nstages: {{quantize: {text}}}\n"))
    assert stage == "quantize.llmcompressor"
    assert (params.algorithm, params.bits) == ("awq", 3)
    assert params.python == str(folder / "env" / "bin" / "python")


def test_the_long_name_is_the_same_thing(folder: Path) -> None:
    short = "{method: gptq, backend: gptqmodel, python: env/bin/python}"
    long = "{method: gptqmodel, algorithm: gptq, python: env/bin/python}"
    made = [quantizer(graph(folder, f"targets: {{cpu: {{quantize: {text}}}}}\n")) for text in (short, long)]
    assert made[0] == made[1]


def test_a_target_may_have_a_backend_beside_another_without(folder: Path) -> None:
    found = graph(
        folder,
        "targets:\n  ours: {profile: cpu, quantize: {method: rtn, bits: 4}}\n  theirs: {profile: cpu, "
        "quantize: {method: rtn, bits: 4, backend: llmcompressor, python: /e/bin/python}}\n",
    )
    assert quantizer(found, "ours")[0] == "quantize.rtn"
    stage, params = quantizer(found, "theirs")
    assert (stage, params.algorithm, params.python) == ("quantize.llmcompressor", "rtn", "/e/bin/python")


def test_an_option_may_name_the_interpreter_from_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    text = "targets: [cpu]\nstages: {quantize: {method: gptq, bits: 4}}\n"
    sets = ("quantize.backend=gptqmodel", "quantize.python=env/bin/python")
    stage, params = quantizer(graph(folder, text, *sets))
    assert (stage, params.python) == ("quantize.gptqmodel", str(elsewhere / "env/bin/python"))


def test_an_algorithm_beside_a_method_and_a_backend_is_refused(folder: Path) -> None:
    text = "stages: {quantize: {method: gptq, algorithm: awq, backend: llmcompressor}}\n"
    with pytest.raises(RecipeError, match="both say what the backend is to run"):
        graph(folder, text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{method: gptq, backend: llm-compressor}", "llmcompressor"),
        ("{method: awq, backend: gptqmodel}", "gptq"),
        ("{method: none, backend: gptqmodel}", "backend"),
    ],
)
def test_a_backend_that_does_not_exist_or_does_not_run_the_method_is_refused(
    folder: Path, text: str, told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        graph(folder, f"stages: {{quantize: {text}}}\n")


def foreign_node(folder: Path, python: str) -> Node:
    text = f"{{method: gptq, backend: llmcompressor, python: {python}}}"
    return graph(folder, f"targets: [cpu]\nstages: {{quantize: {text}}}\n").node("quantize@cpu")


def key(node: Node, store: Store) -> str:
    return keys.key_of(keys.preimage(node, {"model": "a" * 64}, keys.data_digests(node, store), HOST))


def environment(root: Path, version: str) -> str:
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (root / "bin" / "python").chmod(0o755)
    info = root / "lib/python3.12/site-packages" / f"llmcompressor-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llmcompressor\nVersion: {version}\n")
    return str(root / "bin" / "python")


def test_the_key_holds_the_versions_of_the_environment_and_not_its_place(folder: Path, store: Store) -> None:
    installed.cache_clear()
    old, same, new = (
        foreign_node(folder, environment(folder / name, version))
        for name, version in (("a", "0.14.0"), ("b", "0.14.0"), ("c", "0.14.1"))
    )
    assert key(old, store) == key(same, store) != key(new, store)
    found = keys.preimage(new, {"model": "a" * 64}, keys.data_digests(new, store), HOST)
    assert found["tools"]["llmcompressor"] == "0.14.1"  # type: ignore[index]
    assert found["tools"]["llmcompressor python"] == "3.12"  # type: ignore[index]
    assert str(folder) not in json.dumps(found)


def test_what_the_environment_lacks_is_missing_before_anything_runs(folder: Path) -> None:
    installed.cache_clear()
    (missing,) = requirements.of_node(foreign_node(folder, str(folder / "gone" / "python")))
    assert "does not exist" in missing.name
    python = environment(folder / "old", "0.9.0")
    (missing,) = requirements.of_node(foreign_node(folder, python))
    assert missing.fix == f"{python} -m pip install 'llmcompressor>=0.14,<0.15'"
    assert requirements.of_node(foreign_node(folder, environment(folder / "new", "0.14.0"))) == ()
