"""`slerp`: spherical interpolation from the base to the other model (Shoemake, SIGGRAPH 1985)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage
from ..task_vectors import base_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import torch

    from ..blocks import Block, Blocks, Fused
    from ..method import Kernel
    from ..task import Operand, TensorTask

# Those of mergekit: vectors as short have no direction, and those as parallel are interpolated linearly.
LEAST_NORM = 1e-8
PARALLEL = 0.9995


def merge(task: TensorTask, blocks: Blocks) -> Kernel | Fused | Operand:
    """sin((1 − t) θ) / sin θ · a + sin(t θ) / sin θ · b, θ being the angle between a, the base, and b.

    A tensor is one vector, whatever its shape. Nearly parallel ones, in either direction, are interpolated
    linearly. Products are summed in float64.
    """
    from .. import native

    pair, t = [base_of(task), task.inputs[0].operand], task.number("t")
    if t in (0.0, 1.0):
        return pair[int(t)]
    aa, bb, ab = blocks.sum(lambda block: _products(block, pair)).tolist()
    first, second = factors(aa, bb, ab, t)
    if made := native.blend(task.output.dtype, pair, (first, second)):
        return made

    def kernel(block: Block) -> torch.Tensor:
        return block.read(pair[0]).mul_(first).add_(block.read(pair[1]), alpha=second)

    return kernel


def _products(block: Block, pair: Sequence[Operand]) -> npt.NDArray[np.float64]:
    """⟨a, a⟩, ⟨b, b⟩ and ⟨a, b⟩, float64 [3]."""
    import numpy as np

    from .. import native
    from ..lanes import lane_sum

    if (fast := native.products(block, pair)) is not None:
        return fast
    a, b = (block.read(each).double() for each in pair)
    return np.array([lane_sum(each.numpy()) for each in (a * a, b * b, a * b)])


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
