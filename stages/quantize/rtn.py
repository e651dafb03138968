"""`quantize.rtn`: round to nearest, weight only, needing no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.schema import param
from ..base import Context, Result, stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.families import Architecture
    from ..model.quantized import WeightFormat, WeightSpec
    from .rounding import Choice


@dataclass(frozen=True)
class RtnParams:
    """Parameters of `quantize.rtn`."""

    bits: int = param(4, choices=(2, 3, 4, 8), doc="bits a weight; 4 saves most for little loss")
    group_size: int = param(
        32,
        choices=(0, 16, 32, 64, 128, 256),
        doc="input features that share a scale, 0 for a whole row; 32 suits 4 bits without calibration",
    )
    sym: bool = param(True, doc="zero point fixed at 2^(bits-1); symmetric is what every runtime takes")
    scale_search: str = param(
        "mse",
        choices=("minmax", "mse"),
        doc="span each group's range, or clip it where the squared error is least; mse costs seconds",
    )
    lm_head_bits: int = param(
        8, choices=(2, 3, 4, 8, 16), doc="bits of the output head, 16 leaves it; 8 since logits are sensitive"
    )
    embedding_bits: int = param(
        8,
        choices=(4, 8, 16),
        doc="bits of the token embedding, 16 leaves it; 8 costs nothing",
    )
    ignore: tuple[str, ...] = param((), doc="patterns of weights to leave, such as *.down_proj.weight")


def choice(params: RtnParams) -> Choice:
    """What the parameters ask for."""
    from ..model.quantized import WeightFormat
    from .rounding import Choice

    def form(bits: int) -> WeightFormat | None:
        return None if bits == 16 else WeightFormat(bits, params.group_size, params.sym)

    return Choice(
        linear=WeightFormat(params.bits, params.group_size, params.sym),
        head=form(params.lm_head_bits),
        embedding=form(params.embedding_bits),
        search="mse" if params.scale_search == "mse" else "minmax",
        ignore=params.ignore,
    )


def formats(params: RtnParams, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored."""
    from .rounding import choose

    return choose(model, choice(params))


@stage(
    "quantize.rtn",
    params=RtnParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="Round every linear weight to the nearest of 2^bits levels; no data needed",
    formats=formats,
)
def run(context: Context[RtnParams]) -> Result:
    """Rounds the checkpoint `model` and writes the quantized form."""
    from .rounding import quantize

    return quantize(context, choice(context.params), "rtn")
