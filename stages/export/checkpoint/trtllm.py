"""hf_quant_config.json, by which TensorRT-LLM knows how a Hugging Face checkpoint is quantized.

The file is that of NVIDIA's ModelOpt ("unified HF checkpoint"); the names of algorithms are those of
TensorRT-LLM's `QuantAlgo`. Of what is written here it has one that computes with the tensors as they are
stored: fp8 weights with a scale for each output feature, and fp8 inputs with one for each token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...model.quantized import WeightSpec

TRTLLM_FILE = "hf_quant_config.json"
ROWWISE_FP8 = "FP8_PER_CHANNEL_PER_TOKEN"


def trtllm_config(weights: Mapping[str, WeightSpec], left: Sequence[str]) -> dict[str, object] | None:
    """The content of the file; None where TensorRT-LLM has no name for the weights.

    left: the modules that stay in floating point.
    """
    formats = {spec.format for spec in weights.values()}
    if not formats or not all(
        form.numeric == "fp8_e4m3" and form.activation == "dynamic" and form.group_size == 0
        for form in formats
    ):
        return None
    return {
        "producer": {"name": "ingot"},
        "quantization": {
            "quant_algo": ROWWISE_FP8,
            "kv_cache_quant_algo": None,
            "exclude_modules": list(left),
        },
    }
