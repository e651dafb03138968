"""`multislerp`: the weighted mean of several tensors on the sphere, by one step from their chord mean.

Directions uᵢ = xᵢ / ‖xᵢ‖ (or of differences from a base) are averaged, m = Σ wᵢ uᵢ / ‖Σ wᵢ uᵢ‖; lengths too.
The method (Goddard: Multi-SLERP, 2025) then interpolates in the tangent space at m, where the mean of the
uᵢ's projections is Σ wᵢ uᵢ − ⟨Σ wᵢ uᵢ, m⟩ m = 0, so that the step ends where it began: at Σ wᵢ ‖xᵢ‖ m.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....artifacts.errors import InputError
from ..combinations import merges, norms
from ..method import Method, Parameter
from ..stage import merge_stage

if TYPE_CHECKING:
    import torch

    from ..blocks import Blocks, Fused
    from ..method import Kernel
    from ..task import Operand, TensorTask


def coefficients(task: TensorTask, products: torch.Tensor) -> torch.Tensor:
    """Those of the mean direction at the mean length.

    Of two vectors that cancel each other out, the weights themselves; raises InputError for more of them.
    """
    import torch

    weights = torch.tensor(task.numbers("weight"), dtype=torch.float64)
    if task.parameters["normalize_weights"]:
        weights = weights / weights.sum()
    eps = task.number("eps")
    lengths = norms(products)
    units = 1 / (lengths + eps)
    length = float((weights * units @ products @ (weights * units)).clamp(min=0).sqrt())
    if length >= eps:
        return weights * units / length * (weights * lengths).sum()
    if len(weights) == 2:
        return weights
    what = "the models' directions cancel one another out, so there is no mean direction"
    raise InputError(what, where=task.output.name, fix="change a weight")


def check(task: TensorTask) -> None:
    """Weights that add up to 0 cannot be normalised."""
    if task.parameters["normalize_weights"] and sum(task.numbers("weight")) == 0:
        what = "the weights of multislerp add up to 0, so there is no mean"
        raise InputError(what, where=task.output.name, fix="change a weight, or set normalize_weights: false")


_merge = merges(coefficients)


def merge(task: TensorTask, blocks: Blocks) -> Kernel | Fused | Operand:
    """One model alone is what comes out."""
    return task.inputs[0].operand if len(task.inputs) == 1 else _merge(task, blocks)


METHOD = Method(
    "multislerp",
    merge,
    check=check,
    summary="The mean direction of several models, or of their differences from a base, at their mean length",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    base="optional",
    parameters=(
        Parameter("weight", "the model's share", scope="non_base"),
        Parameter(
            "normalize_weights", "divide by the sum of the weights, so that shares need not add up to 1",
            default=True, kind=bool,
        ),
        Parameter("eps", "what lengths are kept above, against division by 0", default=1e-8, minimum=0.0),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
