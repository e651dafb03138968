"""`quantize.nf4`: 4-bit NormalFloat weights (QLoRA, arXiv:2305.14314), needing no data."""

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
class Nf4Params:
    """Parameters of `quantize.nf4`."""

    group_size: int = param(
        64, choices=(64, 128, 256, 512), doc="input features that share a scale; 64 as in the paper"
    )
    double_quant: bool = param(
        True,
        doc="store the scales as 8-bit codes too: true, since that saves 0.37 bits a weight for next to no "
        "error, and codes are chosen for the scales that result",
    )
    lm_head_bits: int = param(
        16, choices=(4, FLOAT_BITS), doc="bits of the output head; 16 leaves it, as loaders of nf4 expect"
    )
    ignore: tuple[str, ...] = param((), doc="patterns of weights to leave, such as *.down_proj.weight")


def choice(params: Nf4Params) -> Choice:
    """What the parameters ask for."""
    form = WeightFormat(4, params.group_size, sym=True, numeric="nf4", double_quantized=params.double_quant)
    head = None if params.lm_head_bits == FLOAT_BITS else form
    return Choice(linear=form, head=head, embedding=None, ignore=params.ignore)


def formats(params: Nf4Params, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored."""
    return choose(model, choice(params))


@stage(
    "quantize.nf4",
    params=Nf4Params,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="4-bit NormalFloat weights, their scales quantized too if asked, for checkpoints; no data needed",
    formats=formats,
    takes_compact=True,
)
def run(context: Context[Nf4Params]) -> Result:
    """Rounds the checkpoint `model` to the levels of NF4 and writes the quantized form."""
    from .rounding import quantize

    return quantize(context, choice(context.params), "minmax", "nf4")
