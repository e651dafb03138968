"""`dare_linear`: drop elements of each difference by chance, rescale the rest, add (arXiv:2311.03099)."""

from __future__ import annotations

from ..method import Method
from ..stage import merge_stage
from ..task_vectors import drop, merges, parameters

METHOD = Method(
    "dare_linear",
    merges(drop, votes=False),
    summary="Drop elements of the differences by chance, make up for them, add what is left",
    paper="arXiv:2311.03099",
    base="required",
    parameters=parameters(normalize=False, rescale=True),
    is_random=True,
)

run = merge_stage(METHOD, __name__)
