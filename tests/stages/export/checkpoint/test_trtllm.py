"""hf_quant_config.json stands where TensorRT-LLM has a name for the weights, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ingot.artifacts.tensors import TensorSource


def test_fp8_with_a_scale_a_row_and_a_token_is_named_and_says_what_is_left(
    tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = run_stage("quantize.fp8", {"model": tiny_checkpoint("llama", "bfloat16")})
    written = run_stage("export.checkpoint", {"model": source})
    document = json.loads((written.path / "hf_quant_config.json").read_text())
    # ModelOpt's unified checkpoint has these keys; the algorithm is one of TensorRT-LLM's QuantAlgo.
    assert document["producer"]["name"] == "ingot"
    assert document["quantization"] == {
        "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN",
        "kv_cache_quant_algo": None,
        "exclude_modules": ["lm_head"],
    }
    # The names that its loader looks for, and their dtypes.
    tensors = TensorSource.open([written.path / "model.safetensors"])
    name = "model.layers.0.self_attn.q_proj"
    assert tensors.info(f"{name}.weight").dtype == "F8_E4M3"
    assert tensors.info(f"{name}.weight_scale").shape == (64, 1)
    tensors.close()


@pytest.mark.parametrize(
    ("stage", "params", "layout"),
    [
        ("quantize.fp8", {"activation": "none"}, "compressed-tensors"),
        ("quantize.rtn", {"bits": 4, "embedding_bits": 16}, "compressed-tensors"),
    ],
)
def test_what_it_has_no_name_for_is_left_to_config_json(
    stage: str, params: dict[str, Any], layout: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = run_stage(stage, {"model": tiny_checkpoint("llama")}, **params)
    written = run_stage("export.checkpoint", {"model": source}, layout=layout)
    assert not (written.path / "hf_quant_config.json").exists()
    assert "quantization_config" in json.loads((written.path / "config.json").read_text())
