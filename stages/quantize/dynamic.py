"""`quantize.dynamic`: int8 weights with int8 activations that are scaled while the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.schema import param
from ..base import Context, Result, stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.families import Architecture
    from ..model.quantized import WeightSpec
    from .formats import Choice


@dataclass(frozen=True)
class DynamicParams:
    """Parameters of `quantize.dynamic`."""

    bits: int = param(8, choices=(8,), doc="bits a weight; the integer matrix kernels take 8")
    lm_head_bits: int = param(
        8,
        choices=(8, 16),
        doc="bits of the output head, 16 leaves it; 8 since it is a large matrix",
    )
    embedding_bits: int = param(
        8, choices=(8, 16), doc="bits of the embedding, 16 leaves it; 8 costs nothing"
    )
    ignore: tuple[str, ...] = param((), doc="patterns of weights to leave, such as *.down_proj.weight")


def choice(params: DynamicParams) -> Choice:
    """What the parameters ask for."""
    from ..model.quantized import WeightFormat
    from .formats import Choice

    matrix = WeightFormat(8, 0, sym=True, activation="dynamic")
    return Choice(
        linear=matrix,
        head=matrix if params.lm_head_bits == 8 else None,
        embedding=WeightFormat(8, 0, sym=True) if params.embedding_bits == 8 else None,
        ignore=params.ignore,
    )


def formats(params: DynamicParams, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored."""
    from .formats import choose

    return choose(model, choice(params))


@stage(
    "quantize.dynamic",
    params=DynamicParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="int8 weights per output channel, int8 activations with scales found at run time; no data needed",
    formats=formats,
    takes_compact=True,
)
def run(context: Context[DynamicParams]) -> Result:
    """Rounds the checkpoint `model` per output channel and asks for dynamic int8 activations."""
    from .rounding import quantize

    return quantize(context, choice(context.params), "minmax", "dynamic")
