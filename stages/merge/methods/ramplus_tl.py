"""`ramplus_tl`: `ram` with what a model alone has learned strengthened by what it shares (arXiv:2601.13572).

The part that is a model's own is multiplied by λᵢ = 1 + r min(ρᵢ, α), ρᵢ being the number of its elements
that others change as well over those that it changes alone: averaging weakens the former, and this makes up
for it. Both are counted in one tensor (mergekit's "tensor-local" form of RAM+).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage
from .ram import EPSILON, reader

if TYPE_CHECKING:
    import torch

    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask


def merge(task: TensorTask, blocks: Blocks) -> Kernel | Operand:
    """The base, what models share averaged, and their own parts strengthened."""
    import torch

    changes = reader(task)
    r, alpha = task.number("r"), task.number("alpha")

    def counted(block: Block) -> torch.Tensor:
        _, found, count = changes(block)
        is_shared = count > 1
        return torch.tensor([[int((c & is_shared).sum()), int((c & ~is_shared).sum())] for _, c in found])

    factors = [
        1 + r * min(shared / own if own else float("inf") if shared else 0.0, alpha)
        for shared, own in sum(
            blocks.map(counted), torch.zeros(len(task.inputs), 2, dtype=torch.int64)
        ).tolist()
    ]

    def kernel(block: Block) -> torch.Tensor:
        origin, found, count = changes(block)
        total, divisor = block.new().zero_(), count.clamp_(min=1)
        for (delta, counts), factor in zip(found, factors, strict=True):
            total.add_(delta.mul_(counts).div_(divisor).mul_(torch.where(divisor == 1, factor, 1.0)))
        return origin.add_(total)

    return kernel


METHOD = Method(
    "ramplus_tl",
    merge,
    summary="Add what one model alone has learned, strengthened, average what several have",
    paper="arXiv:2601.13572",
    base="required",
    parameters=(
        Parameter(
            "r", "how strongly a model's own part makes up for what it shares", default=0.1, minimum=0.0
        ),
        Parameter(
            "alpha", "the ratio of shared to own elements that counts at most", default=0.2, minimum=0.0
        ),
        EPSILON,
    ),
)

run = merge_stage(METHOD, __name__)
