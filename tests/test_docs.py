"""The examples of the documents are run, and what they list is what there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-a-stage.md").read_text("utf-8")
SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.+?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_stage_of_the_page_runs_in_a_recipe_as_a_package_of_its_own(tiny_checkpoint, tmp_path):
    site = tmp_path / "site"
    info = site / "ingot_round-1.dist-info"
    info.mkdir(parents=True)
    (site / "ingot_round.py").write_text(block("python"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ingot-round\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ingot.stages]\nround.bfloat16 = ingot_round:run\n")
    (tmp_path / "checkpoint").symlink_to(tiny_checkpoint("llama"), target_is_directory=True)
    (tmp_path / "text.txt").write_text(
        "\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12))
    )
    recipe = block("yaml") + "data: {evaluation: text.txt}\nmeasure: {cost: {repeats: 1, passes: 1}}\n"
    (tmp_path / "ingot.yaml").write_text(
        recipe + "gates: {perplexity: {max_increase: 5%}, parity_max_error: none}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "ingot", "run", "ingot.yaml", "--store", "store", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "pass"
    (made,) = [
        load_file(path)
        for path in (tmp_path / "store" / "trees").glob("*/payload/model.safetensors")
        if "round" in maker(tmp_path / "store", path.parents[1].name)
    ]
    source = load_file(tiny_checkpoint("llama") / "model.safetensors")
    for name, weight in source.items():
        expected = weight if weight.ndim == 1 else (weight.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(made[name], expected)


def maker(store: Path, digest: str) -> str:
    actions = [json.loads(path.read_text()) for path in (store / "actions").glob("*.json")]
    return next(action["node"] for action in actions if action["output"] == digest)


def test_the_recipe_page_is_what_the_schema_says():
    from ingot.pipeline.recipe_reference import render

    page = (ROOT / "docs" / "recipe.md").read_text("utf-8")
    assert page == render(), "write it again: python -m ingot.pipeline.recipe_reference > docs/recipe.md"


PAGES = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in ("recipe", "quantization", "merging", "adapters", "pruning", "training", "factoring")
    ),
)
# Checkpoints and adapters that the pages name.
MODELS = ("my-checkpoint", "base", "code", "chat", "ckpt-a", "ckpt-b", "tuned")
ADAPTERS = ("adapter", "style", "domain")


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_that_is_shown_makes_a_graph(page, tiny_checkpoint, tmp_path):
    from ingot.artifacts.yaml import parse_yaml
    from ingot.pipeline.assemble import graph_of
    from ingot.pipeline.recipe import read_recipe

    for name in MODELS:
        (tmp_path / name).symlink_to(tiny_checkpoint("llama"), target_is_directory=True)
    for name in ("data", *ADAPTERS):
        (tmp_path / name).mkdir()
    texts = (
        "heldout.txt",
        "data/heldout.txt",
        "data/calibration.jsonl",
        "data/train.txt",
        "data/dialogues.jsonl",
    )
    for number, name in enumerate(texts):
        text = SENTENCE.format(number) * 99
        (tmp_path / name).write_text(json.dumps({"text": text}) if name.endswith("l") else text)
    blocks = re.findall(r"```yaml\n(.+?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    assert blocks
    for text in blocks:
        whole = text if text.startswith("model:") else f"model: ./my-checkpoint\n{text}"
        assert graph_of(read_recipe(parse_yaml(whole, page), tmp_path)).targets


def test_the_store_page_lists_the_folders_that_a_store_has(store):
    page = (ROOT / "docs" / "store.md").read_text("utf-8")
    for path in store.root.iterdir():
        assert path.name in page, path.name
