"""`arcee_fusion`: the elements of another model whose difference from the base stands out, and no others.

Importance is |x − b| times the divergence KL(softmax(x) ‖ softmax(b)) of its row. What reaches the median
plus 1.5 × the distance between the quartiles is taken from x (Arcee Fusion, with MergeKit 0.1; quartiles are
the elements at ⌊q (n − 1)⌋ in ascending order).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method
from ..stage import merge_stage
from ..task_vectors import base_of

if TYPE_CHECKING:
    import torch

    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask

# Added to every probability: that of mergekit.
EPSILON = 1e-8


def merge(task: TensorTask, blocks: Blocks) -> Kernel | Operand:
    """The base, with the elements that reach the threshold."""
    import torch

    from ..selection import largest

    base, other = base_of(task), task.inputs[0].operand
    if not blocks.count:
        return base

    def importance(block: Block) -> torch.Tensor:
        origin, values = block.read(base), block.read(other)
        return values.sub(origin).abs_().mul_(divergence(values, origin, block.row))

    last = blocks.count - 1
    counts = [blocks.count - last * quarter // 4 for quarter in (1, 2, 3)]
    cuts = largest(blocks, lambda block: [importance(block)] * len(counts), counts)
    low, median, high = (cut.threshold for cut in cuts)
    threshold = median + 1.5 * (high - low)

    def kernel(block: Block) -> torch.Tensor:
        chosen = importance(block) >= threshold
        return torch.where(chosen, block.read(other), block.read(base))

    return kernel


def divergence(values: torch.Tensor, origin: torch.Tensor, row: int) -> torch.Tensor:
    """KL(softmax(values) ‖ softmax(origin)) of each row, float32 [count]; never below 0.

    In float64: that of rows which differ little is smaller than float32's rounding of its terms.
    """
    import torch

    p, q = (torch.softmax(each.view(-1, row).double(), -1).add_(EPSILON) for each in (values, origin))
    found = (p * torch.log(p / q)).sum(-1, keepdim=True).clamp_(min=0)
    return found.float().expand(p.shape).reshape(-1)


METHOD = Method(
    "arcee_fusion",
    merge,
    summary="The elements of another model whose difference from the base stands out",
    paper="https://arcee.ai",
    base="required",
    most=1,
    unit="row",
)

run = merge_stage(METHOD, __name__)
