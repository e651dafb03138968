"""`linear`: the weighted average of the models (model soups: Wortsman and others, arXiv:2203.05482)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....artifacts.errors import InputError
from ..method import Method, Parameter
from ..stage import merge_stage

if TYPE_CHECKING:
    import torch

    from ..blocks import Block, Blocks, Fused
    from ..method import Kernel
    from ..task import Operand, TensorTask


def merge(task: TensorTask, _blocks: Blocks) -> Kernel | Fused | Operand:
    """Σ wᵢ xᵢ, divided by Σ wᵢ where it is normalised; inputs of weight 0 are not read.

    Each product is added to the sum in one rounding, in the order of the inputs; the sum is divided at last.
    """
    import numpy as np

    from .. import native

    weights = np.array(task.numbers("weight"), np.float32)
    divisor = float(np.add.accumulate(weights)[-1]) if task.parameters["normalize"] else 1.0
    used = [each.operand for each, weight in zip(task.inputs, weights, strict=True) if weight]
    factors = weights[weights != 0]
    if len(used) == 1 and factors[0] == divisor:
        return used[0]
    if made := native.linear(task.output.dtype, used, factors, divisor):
        return made
    import torch

    scalars = torch.from_numpy(factors)

    def kernel(block: Block) -> torch.Tensor:
        total, values = block.new().zero_(), block.new()
        for operand, factor in zip(used, scalars, strict=True):
            total.addcmul_(block.read(operand, values), factor)
        return total if divisor == 1 else total.div_(divisor)

    return kernel


def check(task: TensorTask) -> None:
    """Weights that add up to 0 have no average."""
    if task.parameters["normalize"] and sum(task.numbers("weight")) == 0:
        what = "the weights of linear add up to 0, so there is no average"
        raise InputError(what, where=task.output.name, fix="change a weight, or set normalize: false")


METHOD = Method(
    "linear",
    merge,
    check=check,
    summary="The weighted average of the models",
    paper="arXiv:2203.05482",
    parameters=(
        Parameter("weight", "the model's share", scope="input"),
        Parameter(
            "normalize", "divide by the sum of the weights, so that shares need not add up to 1",
            default=True, kind=bool,
        ),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
