"""`dequantize`: the checkpoint of the weights that codes stand for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from ingot.stages.model import dequantized
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint


@pytest.mark.parametrize("method", ["rtn", "nf4", "fp8"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_are_what_codes_stand_for_and_the_rest_is_as_it_was(
    method: str, family: str, tiny_checkpoint: Any, run_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dequantized, "BLOCK_ELEMENTS", 640)
    source = run_stage(f"quantize.{method}", {"model": tiny_checkpoint(family, "bfloat16")})
    made = run_stage("dequantize", {"model": source})
    quantized, plain = QuantizedCheckpoint.open(source.path), Checkpoint.open(made.path)
    original = Checkpoint.open(tiny_checkpoint(family, "bfloat16"))
    assert set(plain.tensors.names()) == set(original.tensors.names())
    for name in plain.tensors.names():
        if name in quantized.quantized:
            weight = quantized.weight(name).dequantize()
            expected = weight.T if quantized.quantized[name].stored_in_out else weight
            assert np.array_equal(plain.tensors.array(name), expected)
            assert plain.tensors.info(name).shape == original.tensors.info(name).shape
        else:
            assert bytes(plain.tensors.raw(name)) == bytes(original.tensors.raw(name))
    assert made.facts["dtype"] == "float32"
    assert not {"method", "weights_by_width"} & set(made.facts)


def test_transformers_loads_it_without_rounding(tiny_checkpoint: Any, run_stage: Any) -> None:
    import transformers

    source = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama", "bfloat16")})
    made = run_stage("dequantize", {"model": source})
    config = json.loads((made.path / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "torch_dtype" not in config
    model = transformers.AutoModelForCausalLM.from_pretrained(made.path)
    name = "model.layers.0.mlp.up_proj"
    found = model.get_submodule(name).weight.detach().numpy()
    assert np.array_equal(found, QuantizedCheckpoint.open(source.path).weight(f"{name}.weight").dequantize())
