"""`breadcrumbs_ties`: differences without their largest and smallest elements, which then vote on signs.

The masks are those of `breadcrumbs` (arXiv:2312.06795), the vote is that of `ties` (arXiv:2306.01708).
"""

from __future__ import annotations

from ..method import Method
from ..stage import merge_stage
from ..task_vectors import merges, parameters
from .breadcrumbs import GAMMA, band

METHOD = Method(
    "breadcrumbs_ties",
    merges(band, votes=True),
    summary="Differences without their largest and smallest elements, those that agree in sign added",
    paper="arXiv:2312.06795",
    base="required",
    parameters=parameters(normalize=False, rescale=False, extra=(GAMMA,)),
)

run = merge_stage(METHOD, __name__)
