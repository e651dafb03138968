"""Every kind of model through `nvidia` as a person runs it, on a machine without a GPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ingot
import numpy as np
import onnx
import pytest
from ingot.stages.export.onnx.tensorrt_rules import Subject, lint
from ingot.targets import gpu
from ingot.targets.runtimes import onnx as runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.mark.skipif(bool(gpu.probe()), reason="a GPU is here, which the target would be measured on")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_a_model_is_built_measured_where_it_can_be_and_left_for_its_device(
    family: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text("\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12)))
    run = ingot.run(
        model=tiny_checkpoint(family), targets=["nvidia-sm89"], data={"evaluation": text},
        measure={"reference": {"window": 32}}, gates={"perplexity": "none"},
        store=tmp_path / "store", out=tmp_path / "out",
    )  # fmt: skip
    target = run.targets["nvidia-sm89"]
    assert target.status == "unverified"
    metric = target.metrics["cosine" if family == "bert" else "perplexity"]
    assert abs(metric.delta) < 0.01
    assert "decode_ms" not in target.metrics
    assert "an NVIDIA GPU of SM 89 or later" in str(target.explanation)
    place = tmp_path / "out" / "nvidia-sm89.unverified"
    manifest: dict[str, Any] = json.loads((place / "manifest.json").read_text("utf-8"))
    swept = manifest["validation"]["cost"]
    assert (swept["device"], swept["sweep_batch"], swept["sweep_sequence"]) == ("cuda", [1, 8], [128, 1024])
    # What is delivered is what the rules are held against, on the device of the target.
    model = onnx.load(place / "model.onnx")
    assert lint(Subject.of_model(model), 89) == []
    session = runtime.open(place, threads=1)
    ids = np.arange(8)[None] + 5
    assert np.isfinite(session.logits(ids)).all()
