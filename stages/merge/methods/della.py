"""`della`: drop elements at random, small ones more often, then elect a sign for each (arXiv:2406.11617).

In every row the elements of a difference are ranked by magnitude, r = 0 for the smallest of n; each is kept
with probability density − ε + 2 ε r / (n − 1) (MAGPRUNE: Deep, Bhardwaj, Poria: DELLA-Merging).
What is left is scaled so that its magnitudes add up to what they did, and merged as in `ties`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....artifacts.errors import InputError
from ..method import Method, Parameter
from ..stage import merge_stage
from ..task_vectors import merges, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..blocks import Block, Blocks
    from ..masks import Mask
    from ..random import Stream
    from ..task import TensorTask

EPSILON = Parameter(
    "epsilon", "how far the probability of the largest and smallest is from density, as the paper tuned it",
    scope="non_base", default=0.15, minimum=0.0, maximum=1.0,
)  # fmt: skip


def magprune(task: TensorTask, blocks: Blocks) -> Sequence[Mask | None]:
    """Keeps each element with the probability of its rank; all of them at a density of 1, none at 0."""
    settings = zip(task.numbers("density"), task.numbers("epsilon"), strict=True)
    return [
        None if density >= 1 else _mask(density, epsilon, blocks.stream(number))
        for number, (density, epsilon) in enumerate(settings)
    ]


def probabilities(delta: torch.Tensor, row: int, density: float, epsilon: float) -> torch.Tensor:
    """That of each element to be kept, float32 [count]; of equal magnitudes the later ones rank higher.

    A row of one element has no ranks: its probability is the density.
    """
    import torch

    order = delta.view(-1, row).abs().argsort(dim=-1, stable=True)
    if row == 1:
        return torch.full_like(delta, density)
    ladder = torch.linspace(density - epsilon, density + epsilon, row)
    return torch.empty_like(order, dtype=torch.float32).scatter_(1, order, ladder.expand_as(order)).view(-1)


def check(task: TensorTask) -> None:
    """Probabilities lie between 0 and 1."""
    for density, epsilon in zip(task.numbers("density"), task.numbers("epsilon"), strict=True):
        if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            what = f"density {density:g} ± epsilon {epsilon:g} is not between 0 and 1"
            most = min(density, 1 - density)
            raise InputError(what, where=task.output.name, fix=f"choose an epsilon below {most:g}")


def _mask(density: float, epsilon: float, stream: Stream) -> Mask:
    def mask(block: Block, delta: torch.Tensor) -> None:
        import torch

        if density <= 0:
            delta.zero_()
            return
        drawn = torch.from_numpy(stream.uniform(block.start, block.stop))
        delta.mul_(drawn < probabilities(delta, block.row, density, epsilon))

    return mask


METHOD = Method(
    "della",
    merges(magprune, votes=True),
    check=check,
    summary="Drop elements at random, small ones more often, and average those that agree in sign",
    paper="arXiv:2406.11617",
    base="required",
    unit="row",
    is_random=True,
    parameters=parameters(normalize=True, rescale=True, extra=(EPSILON,)),
)

run = merge_stage(METHOD, __name__)
