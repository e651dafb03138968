"""`dare_ties`: as `dare_linear`, then with signs voted on as in `ties` (arXiv:2311.03099)."""

from __future__ import annotations

from ..method import Method
from ..stage import merge_stage
from ..task_vectors import drop, merges, parameters

METHOD = Method(
    "dare_ties",
    merges(drop, votes=True),
    summary="Drop elements of the differences by chance, make up for them, add those of the elected sign",
    paper="arXiv:2311.03099",
    base="required",
    parameters=parameters(normalize=False, rescale=True),
    is_random=True,
)

run = merge_stage(METHOD, __name__)
