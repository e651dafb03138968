"""`prune.layers`: whole layers go, those that change what passes through them least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.calibration.calibrate import ComputeParams, OptionalTextParams
from ..model.checkpoint import Checkpoint
from .amounts import left
from .depth import require_stack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class LayersParams(ComputeParams, OptionalTextParams):
    """Parameters of `prune.layers`."""

    count: int | None = param(None, minimum=1, doc="how many layers go: those of the least influence")
    share: float | None = param(
        None, minimum=0.0, maximum=1.0, doc="in its place, the share of the layers that goes"
    )
    indices: tuple[int, ...] = param(
        (), doc="in their place, the layers that go, counted from 0; no text is needed then"
    )
    keep: tuple[int, ...] = param(
        (), doc="layers that stay whatever their influence, such as the first and the last"
    )

    def __post_init__(self) -> None:
        """Raises RecipeError unless it is said in one way what goes."""
        ways = [name for name in ("count", "share", "indices") if getattr(self, name) not in (None, ())]
        if len(ways) != 1:
            what = f"prune: {' and '.join(ways)} each say what goes" if ways else "prune: no layer would go"
            raise RecipeError(what, fix="write one of count: 2, share: 0.25 and indices: [3, 5]")
        if not self.indices and self.calibration is None:
            what = "prune: the influence of layers is measured on a calibration text, and there is none"
            raise RecipeError(what, fix="name one under data:, or name layers with indices")
        if self.keep and self.indices:
            what = "prune.keep has no effect beside indices, which say what goes"
            raise RecipeError(what, fix="leave one of them out")


def preflight(params: LayersParams, directories: Mapping[str, Path]) -> None:
    """Raises what :func:`check` does of a model of which headers alone are known."""
    check(params, Checkpoint.open(directories["model"]))


def check(params: LayersParams, source: Checkpoint) -> None:
    """Raises RecipeError for layers that there are not, and where none would stay."""
    model = source.architecture
    require_stack("prune", model)
    total = len(model.layers)
    for name in ("indices", "keep"):
        wrong = [index for index in getattr(params, name) if not 0 <= index < total]
        if wrong:
            what = f"prune.{name}: there is no layer {wrong[0]} in a model of {total} layers"
            raise RecipeError(what, fix=f"layers are 0 to {total - 1}")
    going = total - _left(params, total)
    if total - len(set(params.keep)) < going:
        what = f"prune.keep: {len(set(params.keep))} of {total} layers stay, so {going} cannot go"
        raise RecipeError(what, fix="keep less, or drop less")


def _left(params: LayersParams, total: int) -> int:
    if params.indices:
        return left("prune.indices", len(set(params.indices)), total, "layers")
    name = "share" if params.count is None else "count"
    return left(f"prune.{name}", getattr(params, name), total, "layers")


@stage(
    "prune.layers",
    params=LayersParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="Drop whole layers, those of the least block influence on a calibration text, or those named",
    preflight=preflight,
)
def run(context: Context[LayersParams]) -> Result:
    """Writes the checkpoint `model` without the layers that turn their input least (ShortGPT,
    arXiv:2403.03853); what stays is written byte for byte.

    Raises RecipeError for layers that there are not, DataError for a calibration text that cannot be used,
    StageError for states that are not finite.
    """
    from .cutting import without_layers
    from .depth import influence_of, least_influential, told
    from .smaller import write

    params, source = context.params, Checkpoint.open(context.inputs["model"].path)
    check(params, source)
    total = len(source.architecture.layers)
    influence = influence_of(context, source) if params.calibration else []
    if params.indices:
        gone = sorted(set(params.indices))
    else:
        gone = least_influential(influence, total - _left(params, total), params.keep)
    made = without_layers(source, [layer for layer in range(total) if layer not in gone])
    facts = {"pruned_by": "layers", "layers_dropped": gone, "layers_before": total}
    return write(context, made, facts, told(influence, gone))
