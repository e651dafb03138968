"""The bundled model in each format for phones: through emulated ARM kernels as through this host's.

One artifact a format and 256 tokens, so that `.ci/device` has them from nothing within minutes; the lite
interpreter, which no emulator here has, runs on this host.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ingot.artifacts.manifest import Artifact

pytestmark = [pytest.mark.device, pytest.mark.timeout(1800)]
TOKENS = 256


@pytest.fixture(scope="module")
def source(run_stage: Any) -> Artifact:
    """The bundled model."""
    from ingot.pipeline import demo

    return run_stage("load", {}, model=str(Path(demo.__file__).parent / "wikitext-llama-4m"))


@pytest.fixture(scope="module")
def reference(source: Artifact, run_stage: Any) -> Artifact:
    """What the model itself predicts on the first of the bundled held-out texts."""
    from ingot.pipeline import demo

    text = str(Path(demo.__file__).parent / "data/evaluation.jsonl")
    return run_stage("validate.reference", {"model": source}, evaluation=text, max_tokens=2 * TOKENS)


@pytest.fixture(scope="module")
def rounded(source: Artifact, run_stage: Any) -> Artifact:
    """Its weights in int8."""
    return run_stage("quantize.dynamic", {"model": source})


def measured(found: Artifact) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((found.path / "measurements.json").read_text())
    return document


def emulated(artifact: Artifact, reference: Artifact, run_stage: Any, *processors: str) -> dict[str, Any]:
    """What the stage found; it fails where a score is more than 0.5 % from this host's."""
    given = {"artifact": artifact, "reference": reference}
    document = measured(run_stage("validate.emulated_arm", given, processors=list(processors), tokens=TOKENS))
    assert document["data"]["tokens"] >= TOKENS
    for entry in document["emulated"].values():
        assert abs(entry["perplexity"] / document["host"]["perplexity"] - 1) <= 0.005
    return document["emulated"]


def test_a_program_of_executorch_runs_on_an_emulated_a76(
    source: Artifact, reference: Artifact, run_stage: Any
) -> None:
    made = run_stage("export.executorch", {"model": source}, cache_tokens=TOKENS)
    found = emulated(made, reference, run_stage, "cortex-a76")["cortex-a76"]
    assert found["instructions_per_token"] > 0 < found["decode_instructions_per_token"]


def test_a_program_of_torch_scores_as_the_model_does_in_the_lite_interpreter(
    source: Artifact, reference: Artifact, run_stage: Any
) -> None:
    made = run_stage("export.torchscript_mobile", {"model": source})
    quality = measured(run_stage("validate.quality", {"artifact": made, "reference": reference}))
    score = quality["metrics"]["perplexity"]
    assert score["tokens"] >= TOKENS
    assert score["value"] == pytest.approx(score["reference"], rel=0.001)


@pytest.mark.parametrize("run_file", ["ort", "onnx"])
def test_a_graph_of_onnxruntime_runs_on_an_emulated_a76_with_its_dot_products(
    run_file: str, rounded: Artifact, reference: Artifact, run_stage: Any
) -> None:
    made = run_stage("export.onnx_mobile", {"model": rounded}, run_file=run_file)
    found = emulated(made, reference, run_stage, "cortex-a76")["cortex-a76"]
    assert found["dot_products_per_token"] > 0
