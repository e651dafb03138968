"""`quantize.qat` as a stage: what it starts from, trains, keeps and refuses."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.artifacts.errors import InputError, RecipeError
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


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "gpt2", "mixtral", "t5"])
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


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral", "t5", "bart"])
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


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_begin_nearest_to_the_original_and_round_to_the_codes_that_came_in(
    family, tiny_checkpoint, run_stage, qat, calibration
):
    source, observed = tiny_checkpoint(family), {}
    given = {"bits": 3, "group_size": 32, "calibration": str(calibration), "samples": 8, "window": 32}
    rounded = run_stage("quantize.gptq", {"model": source}, **given)
    inputs = {"original1": source}
    stayed = qat(rounded, inputs=inputs, original="original1", **STAY)
    assert_equal(codes_of(stayed), codes_of(rounded))
    made = qat(rounded, inputs=inputs, original="original1", observed=observed)
    curve = dict(observed["training"]["selection"])
    assert curve[made.facts["trained_steps"]] == min(curve.values()) < curve[0]


def test_the_nearest_weights_of_a_code_are_those_by_hand():
    from ingot.stages.model.quantized import QuantizedWeight, WeightFormat, WeightSpec
    from ingot.stages.quantize.qat_start import MARGIN, nearest_with_codes

    form = WeightSpec(WeightFormat(2, 4, True), (1, 4))
    codes = QuantizedWeight(
        "w", form, np.array([[0, 1, 2, 3]], np.uint8), np.array([[0.5]], np.float32),
        np.array([[2]], np.uint8),
    )  # fmt: skip
    # Codes stand for -1, -½, 0 and ½; the ends are open outwards.
    found = nearest_with_codes(np.array([[-7.0, 0.0, 0.1, 0.0]], np.float32), codes)
    reach = 0.5 * (0.5 - MARGIN)
    np.testing.assert_allclose(found, [[-7.0, -0.5 + reach, 0.1, 0.5 - reach]], rtol=1e-6)


@pytest.mark.parametrize("pattern", [None, "2:4"])
@pytest.mark.parametrize("start", ["checkpoint", "codes"])
def test_zeros_of_pruned_weights_are_kept(pattern, start, tiny_checkpoint, run_stage, qat):
    target = {"pattern": pattern} if pattern else {"sparsity": 0.5}
    model = run_stage("prune.magnitude", {"model": tiny_checkpoint("llama")}, **target)
    zero = TensorSource.open([model.path / "model.safetensors"])
    form = {"bits": 4, "group_size": 32}
    given = (
        (model, form) if start == "checkpoint" else (run_stage("quantize.rtn", {"model": model}, **form), {})
    )
    made = qat(given[0], **given[1])
    assert made.facts["trained_steps"] > 0
    assert made.facts["zeros_kept"] == 1
    opened = QuantizedCheckpoint.open(made.path)
    for name in model.facts["sparsity_by_weight"]:
        weight = opened.weight(name).dequantize()
        assert (weight[zero.float32(name) == 0] == 0).all(), name


def test_codes_that_nobody_pruned_are_said_to_be_no_sparse_weights(tiny_checkpoint, run_stage, qat):
    rounded = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, bits=2, group_size=32)
    assert "input_sparsity" not in qat(rounded, **STAY).facts


def test_a_rate_that_is_too_hot_gives_the_codes_back(tiny_checkpoint, run_stage, qat):
    notes: list[str] = []
    rounded = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, bits=4)
    made = qat(rounded, notes=notes, learning_rate=50.0, max_grad_norm=0.0, warmup=0.0)
    assert made.facts["trained_steps"] == 0
    assert_equal(codes_of(made), codes_of(rounded))
    assert "training found nothing better than the weights it began with, which are returned" in notes


def test_an_interrupted_training_ends_with_the_codes_of_one_that_was_not(
    tiny_checkpoint, run_stage, qat, monkeypatch
):
    from ingot.stages.quantize.placement import Rounding
    from ingot.stages.train import journal

    source, form = tiny_checkpoint("llama"), {"bits": 3, "group_size": 32, "evaluate_every": 2}
    whole = qat(source, **form)
    kept: list[object] = []
    stepped, opened = Rounding.stepped, journal.Journal.__init__

    def killed(self, done):
        stepped(self, done)
        if done == 5 and not kept:
            kept.append(done)
            raise KeyboardInterrupt

    directories: list[object] = []

    def same(self, directory, fingerprint):
        directories.append(directory)
        opened(self, directories[0], fingerprint)

    monkeypatch.setattr(Rounding, "stepped", killed)
    monkeypatch.setattr(journal.Journal, "__init__", same)
    with pytest.raises(KeyboardInterrupt):
        qat(source, **form)
    again = qat(source, **form)
    assert len(directories) == 2
    assert_equal(codes_of(again), codes_of(whole))


@pytest.mark.parametrize(
    ("stage", "params", "message"),
    [
        ("quantize.rtn", {"bits": 4}, "bits has no effect: the codes that come in have a format"),
        ("quantize.rtn", {"alpha": 0.5}, "alpha has no effect: there is no teacher"),
        ("quantize.dynamic", {}, "goes with dynamic activations"),
        ("quantize.nf4", {}, "are nf4"),
        ("quantize.rtn", {"original": "qwen2"}, "the original has no"),
    ],
)
def test_what_does_not_go_together_is_refused(stage, params, message, tiny_checkpoint, run_stage, qat):
    rounded = run_stage(stage, {"model": tiny_checkpoint("llama")})
    if "original" in params:
        params = {"original": "original1", "inputs": {"original1": tiny_checkpoint(params["original"])}}
    with pytest.raises((InputError, RecipeError), match=message):
        qat(rounded, **params)


def test_encoders_are_refused(tiny_checkpoint, qat):
    with pytest.raises(InputError, match="is of the task encoder, which predicts no next token"):
        qat(tiny_checkpoint("bert"))
