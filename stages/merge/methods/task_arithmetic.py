"""`task_arithmetic`: the base plus the weighted differences of the models from it (arXiv:2212.04089)."""

from __future__ import annotations

from ..method import Method
from ..stage import merge_stage
from ..task_vectors import merges, parameters

METHOD = Method(
    "task_arithmetic",
    merges(None, votes=False),
    summary="The base plus the weighted differences of the models from it",
    paper="arXiv:2212.04089",
    base="required",
    parameters=parameters(normalize=False, rescale=None),
)

run = merge_stage(METHOD, __name__)
