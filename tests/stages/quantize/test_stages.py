"""`quantize.rtn` and `quantize.dynamic` on real checkpoints: what they write, leave alone and refuse."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError, StageError
from ingot.artifacts.schema import build
from ingot.stages import base
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from ingot.artifacts.manifest import Artifact

LINEARS = {
    "llama": 15,
    "llama-tied": 14,
    "qwen2": 14,
    "qwen3": 14,
    "gpt2": 8,
    "bert": 12,
    "phi": 13,
    "phi3": 9,
    "gemma": 14,
    "gemma2": 14,
    "gemma3_text": 14,
    "gpt_neox": 9,
    "opt": 12,
    # Of a mixture, 4 of attention and 3 of each expert in a layer, 3 of a shared one; routers stay.
    "mixtral": 2 * (4 + 4 * 3) + 1,
    "qwen2_moe": (4 + 5 * 3 + 3) + (4 + 3) + 1,
    "qwen3_moe": 2 * (4 + 5 * 3) + 1,
    "roberta": 12,
    "distilbert": 12,
}


@pytest.fixture
def quantize(store, tiny_checkpoint, tmp_path):
    """Runs a quantize stage on a tiny checkpoint of a family and publishes its output."""

    def run(family: str, stage: str, threads: int = 2, **params: object) -> Artifact:
        with store.outbox() as outbox:
            for path in tiny_checkpoint(family).iterdir():
                outbox.copy_in(path, path.name)
            source = outbox.publish("checkpoint", {"model_type": family})
        found = base.get(stage)
        with store.outbox() as outbox:
            context = base.Context(
                params=build(found.params, params),
                inputs={"model": source},
                output=outbox,
                job=tmp_path,
                seed=0,
                threads=threads,
                progress=lambda done, total, what: None,
                note=lambda text: None,
            )
            result = found.run(context)
            return outbox.publish(found.output, result.facts)

    return run


@pytest.mark.parametrize("family", sorted(LINEARS))
@pytest.mark.parametrize(("stage", "width"), [("quantize.rtn", 4), ("quantize.dynamic", 8)])
def test_every_linear_weight_is_quantized_and_counted(quantize, family, stage, width):
    artifact = quantize(family, stage)
    opened = QuantizedCheckpoint.open(artifact.path)
    specs = [spec for spec in opened.quantized.values() if spec.format.bits == width]
    counted = artifact.facts["weights_by_width"][f"int{width}"]
    assert counted["tensors"] == len(specs)
    assert counted["parameters"] == sum(spec.parameters for spec in specs)
    head_and_embedding = 1 if family in ("llama-tied", "qwen2", "qwen3", "gpt2", "bert") else 2
    assert len(opened.quantized) == LINEARS[family] + (1 if family != "llama" else head_and_embedding - 1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dequantized_weights_are_near_the_source_and_the_rest_is_byte_equal(
    quantize, tiny_checkpoint, family
):
    artifact = quantize(family, "quantize.rtn", bits=8, group_size=0, scale_search="minmax")
    source = Checkpoint.open(tiny_checkpoint(family))
    opened = QuantizedCheckpoint.open(artifact.path)
    for name, spec in opened.quantized.items():
        weight = source.tensors.float32(name)
        weight = weight.T if spec.stored_in_out else weight
        found = opened.weight(name).dequantize()
        assert np.abs(found - weight).max() <= 0.501 * opened.weight(name).scales.max()
    for name in opened.float_names():
        np.testing.assert_array_equal(opened.checkpoint.tensors.raw(name), source.tensors.raw(name))


def test_the_safetensors_library_reads_what_was_written(quantize):
    artifact = quantize("llama", "quantize.rtn")
    loaded = load_file(artifact.path / "model.safetensors")
    opened = QuantizedCheckpoint.open(artifact.path)
    for name in opened.quantized:
        np.testing.assert_array_equal(loaded[f"{name}.codes"], opened.weight(name).codes)


def test_threads_and_blocks_do_not_change_a_byte(quantize, monkeypatch):
    from ingot.stages.quantize import rounding

    first = quantize("llama", "quantize.rtn", threads=1)
    monkeypatch.setattr(rounding, "BLOCK_ELEMENTS", 640)
    assert quantize("llama", "quantize.rtn", threads=3).digest == first.digest


def test_an_ignored_weight_stays_byte_equal(quantize, tiny_checkpoint):
    artifact = quantize(
        "llama", "quantize.rtn", ignore=("*.down_proj.weight",), embedding_bits=16, lm_head_bits=16
    )
    opened = QuantizedCheckpoint.open(artifact.path)
    source = Checkpoint.open(tiny_checkpoint("llama"))
    for name in ("model.layers.1.mlp.down_proj.weight", "lm_head.weight", "model.embed_tokens.weight"):
        assert name not in opened.quantized
        np.testing.assert_array_equal(opened.checkpoint.tensors.raw(name), source.tensors.raw(name))


def test_a_tied_embedding_takes_the_wider_format(quantize):
    artifact = quantize("llama-tied", "quantize.rtn", bits=2, lm_head_bits=4, embedding_bits=8)
    opened = QuantizedCheckpoint.open(artifact.path)
    assert opened.quantized["model.embed_tokens.weight"].format.bits == 8


def test_a_pattern_that_matches_nothing_is_refused(quantize):
    with pytest.raises(RecipeError, match=r"'\*\.fc1\.weight' matches no weight"):
        quantize("llama", "quantize.rtn", ignore=("*.fc1.weight",))


def test_ignoring_everything_is_an_error_and_not_a_float_model(quantize):
    with pytest.raises(StageError, match="no linear weight"):
        quantize("llama", "quantize.dynamic", ignore=("*",))


def test_a_weight_of_zeros_is_without_error_and_what_is_observed_stays_json(tiny_checkpoint, tmp_path, store):
    directory = tmp_path / "zeroed"
    shutil.copytree(tiny_checkpoint("llama"), directory)
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    found = base.get("quantize.rtn")
    with store.outbox() as outbox:
        for path in directory.iterdir():
            outbox.copy_in(path, path.name)
        source = outbox.publish("checkpoint", {})
    with store.outbox() as outbox:
        context = base.Context(
            build(found.params, {}), {"model": source}, outbox, tmp_path, 0, 1, lambda *_: None, print
        )
        errors = found.run(context).observed["tensors"]
    assert errors[name] == {"relative_error": 0.0, "snr_db": None}
    assert json.loads(json.dumps(errors, allow_nan=False)) == errors
