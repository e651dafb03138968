"""A third party's package that brings a stage, a metric and a target: found, run, gated and reported."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ingot.artifacts.errors import RecipeError, StageError
from ingot.pipeline.graph import Node
from ingot.pipeline.keys import data_digests
from ingot.stages.validate import plugins
from ingot.stages.validate.quality import QualityParams

PACKAGE = Path(__file__).parent / "data" / "plugin_full"
SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "
TEXT = "\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12))


@pytest.fixture
def site(tmp_path):
    """A copy of the package, as if it had been installed there."""
    shutil.copytree(PACKAGE, tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def here(site, monkeypatch):
    """The package on the path of this process."""
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "ingot_full"]:
        del sys.modules[name]


@pytest.fixture
def recipe(tiny_checkpoint, tmp_path):
    """Writes a recipe for the package's stage and target; more: further lines."""

    def write(*more: str, family: str = "llama") -> None:
        (tmp_path / "text.txt").write_text(TEXT)
        lines = [
            f"model: {tiny_checkpoint(family)}",
            "targets: [shop-till]",
            "data: {evaluation: text.txt}",
            "stages: {clip: {method: largest, largest: 3.0}}",
            *more,
        ]
        (tmp_path / "ingot.yaml").write_text("\n".join(lines) + "\n")

    return write


@pytest.fixture
def ingot(site, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ingot", *arguments, "--store", "store"]
        environment = {**os.environ, "PYTHONPATH": str(site), "GITHUB_STEP_SUMMARY": ""}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


COST = "cost: {repeats: 1, passes: 1}"
LOOSE = "gates: {perplexity: {max_increase: 900%}}"


def test_a_stage_a_metric_and_a_target_of_one_package_work_together(recipe, ingot, tmp_path, site):
    recipe(f"measure: {{{COST}, quality: {{metrics: [rank_loss, own_nll]}}}}", LOOSE)
    done = ingot("run", "ingot.yaml", "--json")
    assert done.returncode == 0, done.stderr
    target = json.loads(done.stdout)["targets"]["shop-till"]
    metrics = target["metrics"]
    assert {"perplexity", "rank_loss", "own_nll", "size_bytes"} <= set(metrics)
    # The loss by another way is the logarithm of the perplexity.
    for side in ("reference", "value"):
        assert metrics["own_nll"][side] == pytest.approx(math.log(metrics["perplexity"][side]), rel=1e-6)
    low, delta, high = (metrics["rank_loss"][name] for name in ("low", "delta", "high"))
    assert low < delta < high
    manifest = json.loads((tmp_path / "ingot-out" / "shop-till" / "manifest.json").read_text())
    assert "clip.largest" in json.dumps(manifest["stages"])
    gated = [check for check in manifest["gates"]["checks"] if check["metric"] == "rank_loss"]
    assert [check["status"] for check in gated] == ["pass"]
    assert gated[0]["method"] == "paired cluster bootstrap over documents"
    for form in ("report.html", "report.md"):
        assert "Rank loss" in (tmp_path / "ingot-out" / form).read_text()


def test_the_key_of_what_a_metric_measures_follows_the_source_of_its_package(here, store):
    node = Node("quality@shop-till", "validate.quality", QualityParams(metrics=("rank_loss",)))
    before = data_digests(node, store)
    source = here / "ingot_full" / "metrics.py"
    source.write_text(source.read_text() + "\n# another thought\n")
    after = data_digests(node, store)
    assert {name for name in after if after[name] != before[name]} == {"ingot_full/metrics.py"}
    assert data_digests(Node("quality@cpu", "validate.quality", QualityParams()), store) == {}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("[rank_los]", ("there is no metric 'rank_los'", "rank_loss")),
        ("[perplexity]", ("perplexity is measured without being added",)),
        ("[misnamed]", ("misnamed", "does not define it")),
        ("[own_nll]", ("rank_loss is not measured", "metrics: [rank_loss]")),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(recipe, ingot, metrics, words, tmp_path):
    recipe(f"measure: {{{COST}, quality: {{metrics: {metrics}}}}}")
    done = ingot("run", "ingot.yaml", "--json")
    assert done.returncode == 2, done
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "ingot-out").exists()


def test_an_encoder_has_no_predictions_to_score(recipe, ingot):
    recipe(family="bert")
    done = ingot("plan", "ingot.yaml")
    assert done.returncode == 2
    assert "models of the task encoder make none" in done.stderr


def test_a_metric_that_breaks_is_named_in_the_error(here):
    broken = plugins.get("breaks")
    window = plugins.Window([1, 2], None, None, None)
    with pytest.raises(StageError, match=r"the metric breaks failed .* ZeroDivisionError: nothing to divide"):
        plugins.score(broken, window)


def test_the_sources_of_a_metric_are_all_files_of_its_package(here):
    found = plugins.sources(["rank_loss"])
    assert set(found) == {"ingot_full/__init__.py", "ingot_full/metrics.py", "ingot_full/stage.py"}
    assert all(path.is_relative_to(here) for path in found.values())


def test_a_metric_that_nobody_brings_is_unknown():
    with pytest.raises(RecipeError, match="there is no metric 'nothing'"):
        plugins.get("nothing")


def test_the_metric_of_the_documents_is_measured_and_gated(recipe, ingot, site, tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "baselines-and-ci.md").read_text("utf-8")
    source, settings = (
        re.search(rf"```{language}\n(.+?)```", page, re.DOTALL)[1] for language in ("python", "yaml")
    )
    (site / "my_package.py").write_text(source)
    (site / "my_package-1.dist-info").mkdir()
    (site / "my_package-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-package\nVersion: 1\n"
    )
    (site / "my_package-1.dist-info" / "entry_points.txt").write_text(
        "[ingot.metrics]\nhit_rate = my_package:hit_rate\n"
    )
    measure, gates = settings.strip().splitlines()
    recipe(
        measure.replace("quality", f"{COST}, quality"),
        gates.replace("}}", "}, perplexity: {max_increase: 900%}}"),
    )
    text = (tmp_path / "ingot.yaml").read_text()
    (tmp_path / "ingot.yaml").write_text(
        text.replace("shop-till", "cpu-fp32").replace("largest: 3.0", "largest: 99.0")
    )
    done = ingot("run", "ingot.yaml", "--json")
    assert done.returncode == 0, done.stderr
    metric = json.loads(done.stdout)["targets"]["cpu-fp32"]["metrics"]["hit_rate"]
    # The unquantized export predicts as the reference does, so its own softmax gives the reference's losses.
    assert metric["value"] == pytest.approx(metric["reference"], rel=1e-4)
    assert 0 < metric["value"] < 1
