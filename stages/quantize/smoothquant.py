"""`quantize.smoothquant`: what makes activations hard to round moves into weights, then both are int8."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...artifacts.schema import param
from ..base import Context, Result, stage
from .activations import ActivationParams, formats, with_activation

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.observers import ObserverKind
    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture, Linear
    from ..model.fold import Fold
    from ..model.quantized import ActivationGrid, WeightSpec
    from .products import Rounding

    Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SmoothQuantParams(ActivationParams):
    """Parameters of `quantize.smoothquant`."""

    alpha: float = param(
        0.5,
        minimum=0.0,
        maximum=1.0,
        doc="how much of an activation's spread goes into the weights: 0 none of it, 1 all; the paper's half",
    )
    activation: str = param(
        "dynamic",
        choices=("dynamic", "static"),
        doc="activations scaled for each token at run time, or on grids from a second pass over the text",
    )


def planned(params: SmoothQuantParams, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored."""
    specs = formats(params, model)
    if params.activation == "static":
        return specs
    return {
        name: with_activation(spec, "dynamic") if spec.format.activation == "static" else spec
        for name, spec in specs.items()
    }


@stage(
    "quantize.smoothquant",
    params=SmoothQuantParams,
    inputs={"model": ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="SmoothQuant: channel scales folded from activations into weights, then int8 both",
    formats=planned,
    takes_compact=True,
)
def run(context: Context[SmoothQuantParams]) -> Result:
    """Calibrates the checkpoint `model`, folds and writes the quantized form (arXiv:2211.10438).

    Raises DataError for a calibration text that cannot be used, StageError for inputs that are not finite.
    """
    from ..model.checkpoint import Checkpoint
    from .activations import round_static
    from .rounding import Made, chosen, write

    source = Checkpoint.open(context.inputs["model"].path)
    chosen(source, context.params.choice())
    specs = planned(context.params, source.architecture)
    folded, transforms = _smoothed(context, source, specs)
    if context.params.activation == "static":
        return round_static(context, folded, "smoothquant", transforms)
    return write(context, folded, specs, "minmax", "smoothquant", Made(transforms=transforms))


def _smoothed(
    context: Context[SmoothQuantParams], source: Checkpoint, specs: Mapping[str, WeightSpec]
) -> tuple[Checkpoint, list[Mapping[str, object]]]:
    """The checkpoint with scales folded in, and for the record what was folded where.

    Scales that lose more than none, on a sample of the text, are left out.
    """
    from ..model.calibration.calibrate import calibrate
    from ..model.fold import factors
    from ..model.folded import FoldedTensors
    from .smooth_visitor import ChannelVisitor, smoothed

    model = source.architecture
    gates = {linear.name for linear in model.gates}
    found = smoothed(model, specs)
    wanted = {linear.name for fold in found for linear in fold.readers} - gates
    seen = calibrate(context, source, ChannelVisitor(wanted), "smooth").results()
    tried = [_try(context.params, source, fold, seen) for fold in found]
    applied = [(fold, each.scales) for fold, each in zip(found, tried, strict=True) if each.helps]
    if len(applied) < len(found):
        count = f"{len(found) - len(applied)} of {len(found)}"
        context.note(f"channel scales of {count} inputs were left out: there they lose more than none")
    turned = {linear.name for linear in model.linears if linear.stored_in_out}
    tensors = FoldedTensors(source.tensors, factors(applied), turned)
    return replace(source, tensors=tensors), [
        each.record(fold) for fold, each in zip(found, tried, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Trial:
    """Scales of a fold, and the relative error of the products on a sample without and with them."""

    scales: Floats
    before: float
    after: float

    @property
    def helps(self) -> bool:
        return self.after < self.before

    def record(self, fold: Fold) -> dict[str, object]:
        from ..model.families import Norm

        return {
            "transform": "channel_scales" if self.helps else "none",
            "source": fold.source.weight if isinstance(fold.source, Norm) else fold.source.linear.name,
            "readers": [linear.name for linear in fold.readers],
            "lowest": float(self.scales.min()),
            "highest": float(self.scales.max()),
            "output_error_without": self.before,
            "output_error_with": self.after,
        }


def _try(params: SmoothQuantParams, source: Checkpoint, fold: Fold, seen: TensorSource) -> _Trial:
    import numpy as np
    import torch

    from ..model.calibration.observers import grid, observe
    from .smooth_visitor import product_error, scales_of

    def weight(linear: Linear) -> torch.Tensor:
        found = torch.from_numpy(source.tensors.float32(linear.name))
        return found.T.contiguous() if linear.stored_in_out else found

    def form(inputs: Floats) -> Rounding | ActivationGrid:
        if params.activation == "dynamic" or inputs.size == 0:
            return "dynamic"
        kind: ObserverKind = "mse" if params.observer == "best" else params.observer  # type: ignore[assignment]
        return grid(observe(inputs, params.percentile), kind, sym=params.activation_sym)

    scales = scales_of(fold, seen, params.alpha)
    before, after = (product_error(fold, each, seen, weight, form) for each in (np.ones_like(scales), scales))
    return _Trial(scales, before, after)
