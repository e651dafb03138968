"""`slerp`: spherical interpolation from the base to the other model (Shoemake, SIGGRAPH 1985)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage
from ..task_vectors import base_of

if TYPE_CHECKING:
    import torch

    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask

# Those of mergekit: vectors as short have no direction, and those as parallel are interpolated linearly.
LEAST_NORM = 1e-8
PARALLEL = 0.9995


def merge(task: TensorTask, blocks: Blocks) -> Kernel | Operand:
    """sin((1 − t) θ) / sin θ · a + sin(t θ) / sin θ · b, θ being the angle between a, the base, and b.

    A tensor is one vector, whatever its shape. Nearly parallel ones, in either direction, are interpolated
    linearly. Products are summed in float64.
    """
    import torch

    base, (other,) = base_of(task), task.inputs
    t = float(task.parameters["t"])  # type: ignore[arg-type] # a number, by its declaration
    if t in (0.0, 1.0):
        return other.operand if t else base

    def products(block: Block) -> torch.Tensor:
        a, b = block.new(torch.float64), block.new(torch.float64)
        a.copy_(block.read(base))
        b.copy_(block.read(other.operand))
        return torch.stack([torch.dot(a, a), torch.dot(b, b), torch.dot(a, b)])

    aa, bb, ab = blocks.sum(products).tolist()
    a_factor, b_factor = factors(aa, bb, ab, t)

    def kernel(block: Block) -> torch.Tensor:
        return block.read(base).mul_(a_factor).add_(block.read(other.operand), alpha=b_factor)

    return kernel


def factors(aa: float, bb: float, ab: float, t: float) -> tuple[float, float]:
    """What a and b are multiplied by, from their products with themselves and each other."""
    norms = [norm if norm > LEAST_NORM else 1.0 for norm in (math.sqrt(aa), math.sqrt(bb))]
    cosine = max(-1.0, min(1.0, ab / norms[0] / norms[1]))
    if abs(cosine) > PARALLEL:
        return 1.0 - t, t
    theta = math.acos(cosine)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


METHOD = Method(
    "slerp",
    merge,
    summary="Spherical interpolation from the base to one other model",
    paper="https://doi.org/10.1145/325165.325242",
    base="required",
    most=1,
    parameters=(
        Parameter("t", "how far to go: 0 is the base, 1 the other model"),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
