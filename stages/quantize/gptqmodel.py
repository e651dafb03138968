"""`quantize.gptqmodel`: GPTQModel's GPTQ, from an environment that has it."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts.schema import param
from ..base import Context, Result, stage
from .foreign.backend import ForeignParams, hooks
from .foreign.interpreter import Library

LIBRARY = Library("gptqmodel", ">=7.6,<8", ("torch", "transformers"))


@dataclass(frozen=True)
class GptqModelParams(ForeignParams):
    """Parameters of `quantize.gptqmodel`."""

    algorithm: str = param("gptq", choices=("gptq",), doc="what it runs; its others ask for a GPU")


@stage(
    "quantize.gptqmodel",
    params=GptqModelParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "torch"),
    summary="GPTQ by GPTQModel, run by the interpreter of an environment that has it",
    **hooks(LIBRARY),
)
def run(context: Context[GptqModelParams]) -> Result:
    """Has GPTQModel quantize the checkpoint `model`."""
    from .foreign.backend import quantize

    return quantize(context, LIBRARY, context.params.algorithm)
