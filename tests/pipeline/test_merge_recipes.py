"""Merges from a recipe to a verdict: three siblings, a mergekit file, adapters beside models."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import ingot
import numpy as np
import pytest
from ingot.artifacts.errors import DataError
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "
TEXT = "\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12))


@pytest.fixture
def siblings(tiny_checkpoint: Any, tmp_path: Path) -> Any:
    """``(family, count) -> directories``: the family's checkpoint and others near it."""

    def make(family: str, count: int) -> list[Path]:
        made = []
        for number in range(count):
            directory = tmp_path / f"{family}-{number}"
            shutil.copytree(tiny_checkpoint(family), directory)
            generator = np.random.default_rng(number)
            weights = {
                name: (value + number * generator.normal(0, 0.002, value.shape)).astype(value.dtype)
                for name, value in load_file(directory / "model.safetensors").items()
            }
            save_file(weights, directory / "model.safetensors", {"format": "pt"})
            made.append(directory)
        return made

    return make


def run(tmp_path: Path, **arguments: Any) -> Any:
    text = tmp_path / "held-out.txt"
    text.write_text(TEXT)
    return ingot.run(
        data={"evaluation": text, **arguments.pop("data", {})},
        measure={"cost": {"repeats": 1, "passes": 1}},
        store=tmp_path / "store",
        out=tmp_path / "out",
        **arguments,
    )


@pytest.mark.parametrize("family", ["llama", "qwen3", "bert"])
def test_three_siblings_are_merged_exported_and_gated_by_one_recipe(
    family: str, siblings: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if family != "llama":  # whose nodes workers build
        request.getfixturevalue("one_process")
    first, second, third = siblings(family, 3)
    models = [{"model": str(second), "weight": 0.5}, {"model": str(third), "weight": 0.5}]
    merge = {"method": "ties", "models": models, "density": 0.6}
    gates = {} if family == "bert" else {"perplexity": {"max_increase": "900%"}}
    done = run(tmp_path, model=first, targets=["cpu-fp32"], stages={"merge": merge}, gates=gates)
    assert done.verdict == "pass"
    nodes = {node.name: node for node in done.report.nodes}
    assert {f"load-{each.name}" for each in (second, third)} < nodes.keys()
    assert nodes["merge"].stage == "merge.ties"
    manifest = json.loads((tmp_path / "out" / "cpu-fp32" / "manifest.json").read_text())
    assert {first.name, second.name, third.name} <= set(
        json.dumps(manifest["sources"]).replace("/", '"').split('"')
    )


@pytest.mark.usefixtures("one_process")
def test_a_mergekit_file_stands_in_place_of_a_recipe(siblings: Any, tmp_path: Path) -> None:
    first, second = siblings("llama", 2)
    path = tmp_path / "merge.yaml"
    path.write_text(
        f"merge_method: linear\nbase_model: {first.name}\nmodels:\n"
        f"- {{model: {first.name}, parameters: {{weight: 0.25}}}}\n"
        f"- {{model: {second.name}, parameters: {{weight: 0.75}}}}\ndtype: float32\n"
    )
    planned = ingot.plan(path, store=tmp_path / "store")
    assert planned.graph.nodes["merge"].inputs == {"model1": "load", "model2": f"load-{second.name}"}


@pytest.mark.usefixtures("one_process")
def test_a_searched_merge_names_its_texts_in_the_report(siblings: Any, tmp_path: Path) -> None:
    first, second = siblings("llama", 2)
    texts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for number, path in enumerate(texts):
        path.write_text(f"Some other text, number {number}, which is not the held-out one. " * 30)
    models = [{"model": "load"}, {"model": str(second)}]
    small = {"trials": 5, "samples": 2, "final_samples": 2, "finalists": 1, "window": 16}
    merge = {"method": "search", "algorithm": "linear", "models": models, **small}
    done = run(
        tmp_path, model=first, targets=["cpu-fp32"], stages={"merge": merge}, data={"selection": texts},
        gates={"perplexity": {"max_increase": "900%"}},
    )  # fmt: skip
    assert [each.name for each in done.report.data if each.role == "selection"] == ["one.txt", "two.txt"]
    assert done.verdict == "pass"


@pytest.mark.usefixtures("one_process")
def test_held_out_texts_are_found_beside_the_recipe(siblings: Any, tmp_path: Path) -> None:
    first, second = siblings("llama", 2)
    place = tmp_path / "place"
    place.mkdir()
    (place / "own.txt").write_text("the river ran past the old mill " * 60)
    path = place / "ingot.yaml"
    path.write_text(
        f"model: {first}\ntargets: [cpu-fp32]\nstages:\n  merge:\n    method: linear\n"
        f"    models: [{{model: load, weight: 1}}, {{model: {second}, weight: 1}}]\n    texts: [own.txt]\n"
    )
    planned = ingot.plan(path, store=tmp_path / "store")
    assert planned.graph.nodes["merge"].params.texts == (str(place / "own.txt"),)
    path.write_text(path.read_text().replace("own.txt", "another.txt"))
    with pytest.raises(DataError, match=r"merge\.texts: there is no file 'another\.txt'") as caught:
        ingot.plan(path, store=tmp_path / "store")
    assert (caught.value.where or "").startswith(str(path))
