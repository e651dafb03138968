"""`passthrough`: one model's tensor as it is, or scaled; layers of several models are stacked with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage

if TYPE_CHECKING:
    import torch

    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask


def merge(task: TensorTask, _blocks: Blocks) -> Kernel | Operand:
    """The input's tensor, times ``scale`` where there is one."""
    (only,) = task.inputs
    scale = only.parameters["scale"]
    if scale is None or scale == 1:
        return only.operand
    factor = only.number("scale")

    def kernel(block: Block) -> torch.Tensor:
        return block.read(only.operand).mul_(factor)

    return kernel


METHOD = Method(
    "passthrough",
    merge,
    summary="One model's tensor as it is, or scaled: to stack layers of several models",
    paper="",
    most=1,
    parameters=(
        Parameter("scale", "what the tensor is multiplied by; as it is, bit for bit, if left out",
                  scope="input", default=None),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
