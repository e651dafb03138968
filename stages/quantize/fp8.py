"""`quantize.fp8`: 8-bit floating-point weights (E4M3), as GPUs from Ada and Hopper on compute with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.quantized import WeightFormat
from .formats import FLOAT_BITS, Choice, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.families import Architecture
    from ..model.quantized import WeightSpec


@dataclass(frozen=True)
class Fp8Params:
    """Parameters of `quantize.fp8`."""

    scale: str = param(
        "channel",
        choices=("channel", "tensor"),
        doc="one scale for each output feature, or one for the whole weight; channel, which costs nothing on "
        "GPUs that have fp8 and follows rows of different size",
    )
    activation: str = param(
        "dynamic",
        choices=("dynamic", "none"),
        doc="round inputs to fp8 too, token by token while the model runs, or leave them; dynamic, which is "
        "what makes fp8 fast",
    )
    lm_head_bits: int = param(
        16, choices=(8, FLOAT_BITS), doc="bits of the output head; 16 leaves it, since logits are sensitive"
    )
    ignore: tuple[str, ...] = param((), doc="patterns of weights to leave, such as *.down_proj.weight")


def choice(params: Fp8Params) -> Choice:
    """What the parameters ask for."""
    form = WeightFormat(8, 0, sym=True, activation=params.activation, numeric="fp8_e4m3")
    head = None if params.lm_head_bits == FLOAT_BITS else form
    return Choice(linear=form, head=head, embedding=None, ignore=params.ignore)


def formats(params: Fp8Params, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored."""
    return choose(model, choice(params))


@stage(
    "quantize.fp8",
    params=Fp8Params,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="8-bit floating-point weights, and inputs rounded while the model runs, for GPUs; no data needed",
    formats=formats,
    takes_compact=True,
)
def run(context: Context[Fp8Params]) -> Result:
    """Rounds the checkpoint `model` to E4M3 and writes the quantized form."""
    from .rounding import quantize

    whole = context.params.scale == "tensor"
    return quantize(context, choice(context.params), "tensor" if whole else "minmax", "fp8")
