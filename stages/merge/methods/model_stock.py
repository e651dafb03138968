"""`model_stock`: from the base towards the models' average, the farther the more they agree.

With θ the mean angle between differences from the base, of N models, the output is t x̄ + (1 − t) b with
t = N cos θ / (1 + (N − 1) cos θ) (Jang, Yun, Han: Model Stock, arXiv:2403.19522).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..combinations import cosines, merges
from ..method import Method, Parameter
from ..stage import merge_stage

if TYPE_CHECKING:
    import torch

    from ..combinations import Which
    from ..task import TensorTask

# Denominators nearer to 0 are of models that pull apart as far as they can: the base stays, as with mergekit.
LEAST_DENOMINATOR = 1e-6


def coefficients(_task: TensorTask, products: torch.Tensor) -> torch.Tensor:
    """t / N for each."""
    import torch

    number = products.shape[-1]
    first, second = torch.triu_indices(number, number, 1)
    cosine = cosines(products)[..., first, second].mean(-1, keepdim=True)
    denominator = 1 + (number - 1) * cosine
    is_singular = denominator.abs() < LEAST_DENOMINATOR
    ratio = number * cosine / denominator.masked_fill(is_singular, 1)
    return (ratio.masked_fill(is_singular, 0) / number).expand(products.shape[:-1])


def vectors(task: TensorTask) -> Which:
    """What angles are between."""
    return "rows" if task.parameters["filter_wise"] else "tensor"


METHOD = Method(
    "model_stock",
    merges(coefficients, vectors),
    summary="From the base towards the models' average, the farther the more they agree",
    paper="arXiv:2403.19522",
    base="required",
    least=2,
    unit="row",
    parameters=(
        Parameter(
            "filter_wise", "an angle for each row; otherwise one for the tensor, as in the paper",
            default=False, kind=bool,
        ),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
