"""`quantize.llmcompressor`: GPTQ, AWQ and rounding of llm-compressor, from an environment that has it."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts.schema import param
from ..base import Context, Result, stage
from .foreign.backend import ForeignParams, hooks
from .foreign.interpreter import Library

LIBRARY = Library("llmcompressor", ">=0.14,<0.15", ("compressed-tensors", "torch", "transformers"))


@dataclass(frozen=True)
class LlmCompressorParams(ForeignParams):
    """Parameters of `quantize.llmcompressor`."""

    algorithm: str = param(
        "gptq", choices=("gptq", "awq", "rtn"), doc="what it runs; gptq loses least of the three"
    )


@stage(
    "quantize.llmcompressor",
    params=LlmCompressorParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "torch"),
    summary="GPTQ, AWQ or rounding by llm-compressor, run by the interpreter of an environment that has it",
    **hooks(LIBRARY),
)
def run(context: Context[LlmCompressorParams]) -> Result:
    """Has llm-compressor quantize the checkpoint `model`."""
    from .foreign.backend import quantize

    return quantize(context, LIBRARY, context.params.algorithm)
