"""`nuslerp`: the arc between two tensors, rows or columns, at the share of the second one's weight.

Slerp (Shoemake: Animating rotation with quaternion curves, SIGGRAPH 1985) of x₁ and x₂, or of their
differences from a base, at t = w₂ / (w₁ + w₂): (sin((1 − t) θ) x₁ + sin(t θ) x₂) / sin θ, θ being the angle
between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....artifacts.errors import InputError
from ..combinations import cosines, merges
from ..method import Method, Parameter
from ..stage import merge_stage

if TYPE_CHECKING:
    import torch

    from ..combinations import Which
    from ..task import TensorTask

# Weights that add up to less have no share: both halves then count alike, as with mergekit.
LEAST_TOTAL = 1e-6
# sin² of angles below which an arc and its chord are the same to more digits than float32 has.
PARALLEL = 1e-12


def coefficients(task: TensorTask, products: torch.Tensor) -> torch.Tensor:
    """Those of the arc; of the chord where vectors are parallel, or opposite and no arc is the shortest."""
    import torch

    first, second = task.numbers("weight")
    total = first + second
    t = 0.5 if abs(total) < LEAST_TOTAL else second / total
    cosine = cosines(products)[..., 0, 1]
    is_chord = 1 - cosine.square() <= PARALLEL
    theta = torch.acos(cosine.masked_fill(is_chord, 0))
    arc = torch.stack([torch.sin((1 - t) * theta), torch.sin(t * theta)], -1) / theta.sin()[..., None]
    chord = torch.tensor([1 - t, t], dtype=arc.dtype)
    return torch.where(is_chord[..., None], chord, arc)


def vectors(task: TensorTask) -> Which:
    """What an arc is between."""
    if task.parameters["nuslerp_flatten"]:
        return "tensor"
    return "columns" if task.parameters["nuslerp_row_wise"] and len(task.output.shape) > 1 else "rows"


def check(task: TensorTask) -> None:
    """A stack of matrices has no columns."""
    if vectors(task) == "columns" and len(task.output.shape) > 2:
        what = f"nuslerp_row_wise takes matrices, and this has {len(task.output.shape)} dimensions"
        raise InputError(what, where=task.output.name, fix="set it to false for this tensor by a filter")


METHOD = Method(
    "nuslerp",
    merges(coefficients, vectors),
    check=check,
    summary="The arc between two models, or their differences from a base, by weight",
    paper="Shoemake 1985",
    base="optional",
    least=2,
    most=2,
    unit="row",
    parameters=(
        Parameter("weight", "the model's share of the way", scope="non_base"),
        Parameter(
            "nuslerp_flatten", "one arc for the whole tensor; otherwise one for each row",
            default=True, kind=bool,
        ),
        Parameter(
            "nuslerp_row_wise",
            "where tensors are not flattened, one arc for each column, which mergekit calls a row",
            default=False, kind=bool,
        ),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
