"""The public Python names: the same run as the command line's, typed, lazy, and readable in a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser

import ingot
import pytest
from ingot.artifacts.errors import RecipeError

SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "
TEXT = "\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12))


@pytest.fixture
def arguments(tiny_checkpoint, tmp_path):
    text = tmp_path / "held-out.txt"
    text.write_text(TEXT)
    return {
        "model": tiny_checkpoint("llama"),
        "targets": ["cpu-int8"],
        "data": {"evaluation": text},
        "measure": {"cost": {"repeats": 1, "passes": 1}},
        "gates": {"perplexity": {"max_increase": "900%"}},
        "store": tmp_path / "store",
    }


def test_every_public_name_is_there_and_documented():
    for name in ingot.__all__:
        value = getattr(ingot, name)
        assert name == "__version__" or value.__doc__, name


def test_importing_ingot_imports_no_library():
    code = (
        "import sys, ingot; print(sorted({'numpy', 'torch', 'click', 'yaml', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("one_process")
def test_plan_touches_nothing_and_run_does_what_it_said(arguments, tmp_path):
    planned = ingot.plan(**arguments)
    assert {str(decision.state) for decision in planned.decisions.values()} == {"run", "pending"}
    run = ingot.run(**arguments, out=tmp_path / "out")
    assert run.verdict == "pass"
    assert [node.name for node in run.report.nodes] == list(planned.decisions)
    assert ingot.plan(**arguments).is_cached


def test_the_python_run_and_the_command_line_run_are_one(arguments, tmp_path):
    run = ingot.run(**arguments, out=tmp_path / "out")
    recipe = {key: value for key, value in arguments.items() if key != "store"}
    recipe |= {"model": str(recipe["model"]), "data": {"evaluation": str(arguments["data"]["evaluation"])}}
    path = tmp_path / "ingot.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    done = subprocess.run(
        [sys.executable, "-m", "ingot", "run", str(path), "--json", "--out", str(tmp_path / "out"),
         "--store", str(arguments["store"])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = json.loads(done.stdout)
    assert shown["targets"]["cpu-int8"]["artifact"] == run.targets["cpu-int8"].artifact
    assert "cached" in done.stderr
    assert "running" not in done.stderr


@pytest.mark.usefixtures("one_process")
def test_a_notebook_shows_a_table_of_targets_and_metrics(arguments, tmp_path):
    run = ingot.run(**arguments, out=tmp_path / "out")
    cells: list[str] = []

    class Cells(HTMLParser):
        def handle_data(self, data):
            cells.append(data)

    Cells().feed(run._repr_html_())
    assert {"cpu-int8", "pass", "Perplexity", "Size"} <= set(cells)


def test_values_beside_a_recipe_file_are_refused(tmp_path):
    (tmp_path / "ingot.yaml").write_text("model: .\n")
    with pytest.raises(RecipeError, match="model was given beside a recipe"):
        ingot.run(tmp_path / "ingot.yaml", model="x")
    with pytest.raises(RecipeError, match="seed was given beside a recipe"):
        ingot.plan(tmp_path / "ingot.yaml", seed=0)


def test_a_wrong_name_is_answered_with_the_nearest(arguments):
    with pytest.raises(RecipeError, match="max_increase"):
        ingot.plan(**{**arguments, "gates": {"perplexity": {"max_increas": "2%"}}})
