"""`nearswap`: another model's elements where they are near the base's, less of them the farther they are.

With a the base's element and b the other's, w b + (1 − w) a for w = t / |a − b|, at most 1 (alchemonaut:
QuartetAnemoi-70B-t0.0001): no element moves by more than t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage
from ..task_vectors import base_of

if TYPE_CHECKING:
    import torch

    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask

# Distances below it count as it: that of mergekit.
LEAST_DISTANCE = 1e-6


def merge(task: TensorTask, _blocks: Blocks) -> Kernel | Operand:
    """The base, moved."""
    base, other = base_of(task), task.inputs[0].operand
    t = task.number("t")

    def kernel(block: Block) -> torch.Tensor:
        origin, values, weight = block.read(base), block.read(other), block.new()
        weight.copy_(origin).sub_(values).abs_().clamp_(min=LEAST_DISTANCE).reciprocal_().mul_(t).clamp_(0, 1)
        values.mul_(weight)
        return origin.mul_(weight.neg_().add_(1)).add_(values)

    return kernel


METHOD = Method(
    "nearswap",
    merge,
    summary="Another model's elements where they are near the base's",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    base="required",
    most=1,
    parameters=(Parameter("t", "how far an element may move", minimum=0.0),),
)

run = merge_stage(METHOD, __name__)
