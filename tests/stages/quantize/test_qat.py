"""`quantize.qat` as a stage: what it starts from, trains, keeps and refuses."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.artifacts.tensors import TensorSource
from ingot.stages.model.quantized import QuantizedCheckpoint

STAGE = "quantize.qat"
LEARN = {"window": 16, "batch_size": 4, "steps": 8, "learning_rate": 3e-3, "scale_learning_rate": 3e-3}
STAY = {"groups": {"*": {"learning_rate": 0.0}}}
PARTS = ("codes", "scales", "zeros")


@pytest.fixture
def qat(run_stage, text_file):
    def go(model, **params):
        inputs = {"model": model, **params.pop("inputs", {})}
        return run_stage(STAGE, inputs, **{"training_text": str(text_file), **LEARN, **params})

    return go


def codes_of(artifact):
    opened = QuantizedCheckpoint.open(artifact.path)
    return {
        f"{name}.{part}": getattr(opened.weight(name), part).copy()
        for name in opened.quantized
        for part in PARTS
    }


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "gpt2", "mixtral"])
@pytest.mark.parametrize("start", ["checkpoint", "codes"])
def test_without_a_learning_rate_the_codes_are_those_of_the_start_bit_for_bit(
    family, start, tiny_checkpoint, run_stage, qat
):
    form = {"bits": 3, "group_size": 32, "sym": False}
    source = tiny_checkpoint(family)
    rounded = run_stage("quantize.rtn", {"model": source}, **form)
    given = (rounded, {"learn_zeros": True}) if start == "codes" else (source, form)
    made = qat(given[0], **given[1], **STAY)
    assert_equal(codes_of(made), codes_of(rounded))


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral"])
def test_what_is_written_is_what_was_measured_and_is_better_than_the_start(
    family, tiny_checkpoint, run_stage, qat, text_file
):
    from ingot.artifacts.schema import build
    from ingot.stages.model.checkpoint import Checkpoint
    from ingot.stages.quantize.qat import QatParams
    from ingot.stages.train.network import Network
    from ingot.stages.train.objective import NextToken
    from ingot.stages.train.text import read_corpus
    from ingot.stages.train.trainer import selection_loss

    observed: dict[str, object] = {}
    source = tiny_checkpoint(family, "bfloat16")
    made = qat(source, bits=3, group_size=32, observed=observed)
    curve = dict(observed["training"]["selection"])
    assert made.facts["trained_steps"] > 0
    assert curve[made.facts["trained_steps"]] == min(curve.values()) < curve[0]
    assert any(each["changed_codes"] > 0 for each in observed["tensors"].values())
    assert any(each["scales_moved"] > 0 for each in observed["tensors"].values())
    # Through another loader: codes written out by a stage that knows nothing of training.
    dense = Checkpoint.open(run_stage("dequantize", {"model": made}).path)
    params = build(QatParams, {"training_text": str(text_file), **LEARN})
    corpus = read_corpus(dense, params, [].append)
    import torch

    loss = selection_loss(
        Network.load(dense).module, NextToken(), corpus.selection, params, torch.device("cpu")
    )
    assert loss == pytest.approx(curve[made.facts["trained_steps"]], rel=1e-5)
    stored = {
        name: TensorSource.open([made.path / "model.safetensors"]).info(name).dtype
        for name in QuantizedCheckpoint.open(made.path).float_names()
    }
    assert set(stored.values()) == {"BF16"}
