"""`della_linear`: add differences from which elements were dropped at random, small ones more often.

The masks are those of `della` (arXiv:2406.11617), without its vote on signs.
"""

from __future__ import annotations

from ..method import Method
from ..stage import merge_stage
from ..task_vectors import merges, parameters
from .della import EPSILON, check, magprune

METHOD = Method(
    "della_linear",
    merges(magprune, votes=False),
    check=check,
    summary="Add differences from which elements were dropped at random, small ones more often",
    paper="arXiv:2406.11617",
    base="required",
    unit="row",
    is_random=True,
    parameters=parameters(normalize=False, rescale=True, extra=(EPSILON,)),
)

run = merge_stage(METHOD, __name__)
