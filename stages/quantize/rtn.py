"""`quantize.rtn`: round to nearest, weight only, needing no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.schema import param
from ..base import Context, Result, stage

if TYPE_CHECKING:
    from ..model.quantized import WeightFormat
    from .grid import ScaleSearch


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


@stage(
    "quantize.rtn",
    params=RtnParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="Round every linear weight to the nearest of 2^bits levels; no data needed",
)
def run(context: Context[RtnParams]) -> Result:
    """Rounds the checkpoint `model` and writes the quantized form."""
    from ..model.quantized import WeightFormat
    from .rounding import Choice, quantize

    params = context.params
    search: ScaleSearch = "mse" if params.scale_search == "mse" else "minmax"

    def form(bits: int) -> WeightFormat | None:
        return None if bits == 16 else WeightFormat(bits, params.group_size, params.sym)

    choice = Choice(
        linear=WeightFormat(params.bits, params.group_size, params.sym),
        head=form(params.lm_head_bits),
        embedding=form(params.embedding_bits),
        search=search,
        ignore=params.ignore,
    )
    return quantize(context, choice, "rtn")
