"""`ram`: differences that one model alone has are added whole, shared ones are averaged (arXiv:2601.13572).

With τᵢ the differences from the base and cᵢ = 1 where |τᵢ| > ε, the output is b + Σ cᵢ τᵢ / Σ cᵢ
(Reinforced Agent Merging): what a model alone has learned is not diluted by those that did not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage
from ..task_vectors import base_of, difference

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask

    # A block's base; of each model the difference and where it counts; by how many models that is.
    Changes = tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]

EPSILON = Parameter(
    "epsilon", "differences up to it count as none; it is below the step of bfloat16 at usual weights",
    default=1e-5, minimum=0.0,
)  # fmt: skip


def reader(task: TensorTask) -> Callable[[Block], Changes]:
    """What reads the changes of a block."""
    base, used = base_of(task), [each.operand for each in task.inputs]
    epsilon = task.number("epsilon")

    def changes(block: Block) -> Changes:
        origin, count, found = block.read(base), block.new().zero_(), []
        for operand in used:
            delta = difference(block, origin, operand)
            counts = delta.abs() > epsilon
            count.add_(counts)
            found.append((delta, counts))
        return origin, found, count

    return changes


def merge(task: TensorTask, _blocks: Blocks) -> Kernel | Operand:
    """The base and the average of what counts at each element."""
    changes = reader(task)

    def kernel(block: Block) -> torch.Tensor:
        origin, found, count = changes(block)
        total, divisor = block.new().zero_(), count.clamp_(min=1)
        for delta, counts in found:
            total.add_(delta.mul_(counts).div_(divisor))
        return origin.add_(total)

    return kernel


METHOD = Method(
    "ram",
    merge,
    summary="Add what one model alone has learned, average what several have",
    paper="arXiv:2601.13572",
    base="required",
    parameters=(EPSILON,),
)

run = merge_stage(METHOD, __name__)
