"""`karcher`: the point of the sphere whose squared angles to all models' directions add up to the least.

The Karcher (Fréchet) mean of uᵢ = xᵢ / ‖xᵢ‖, found by gradient steps along geodesics: from m along
Σ αᵢ log_m(uᵢ), log_m(u) = θ / sin θ (u − cos θ m) with cos θ = ⟨u, m⟩ (Karcher: Riemannian center of mass,
1977; for models: arXiv:2603.04972). All iterates are combinations of the uᵢ, so the models are read only
twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..combinations import cosines, merges, norms
from ..method import Method, Parameter
from ..stage import merge_stage

if TYPE_CHECKING:
    import torch

    from ..task import TensorTask


def coefficients(task: TensorTask, products: torch.Tensor) -> torch.Tensor:
    """Those of the mean direction at the mean length; of vectors shorter than tol only the length counts."""
    import torch

    steps = int(task.number("max_iter"))
    tol = task.number("tol")
    lengths = norms(products)
    counts = lengths > tol
    if not counts.any():
        return torch.zeros_like(lengths)
    shares = counts.double() / counts.sum()
    mean = mean_direction(cosines(products), shares, steps, tol)
    return lengths.mean() * mean / lengths.masked_fill(lengths == 0, 1)


def mean_direction(angles: torch.Tensor, shares: torch.Tensor, steps: int, tol: float) -> torch.Tensor:
    """The Karcher mean of unit vectors as coefficients, float64 [n], of them.

    angles: their cosines [n, n].  shares: αᵢ, of which those that count add up to 1.  It ends after ``steps``
    or where the next is shorter than ``tol``; it begins at the chord mean, or where that is 0 at the first.
    """
    import torch

    def length(vector: torch.Tensor) -> float:
        return float((vector @ angles @ vector).clamp(min=0).sqrt())

    mean = shares / length(shares) if length(shares) >= tol else torch.zeros_like(shares)
    if not mean.any():
        mean[int(shares.argmax())] = 1
    for _ in range(steps):
        cosine = (angles @ mean).clamp(-1, 1)
        theta = torch.acos(cosine)
        sine = theta.sin()
        # No way leads to where it is already, and every way to the opposite point.
        ratio = (theta / sine.masked_fill(sine == 0, 1)).masked_fill(sine <= tol, 0)
        tangent = shares * ratio
        tangent -= (tangent * cosine).sum() * mean
        step = length(tangent)
        if step < tol:
            break
        mean = torch.cos(torch.tensor(step)) * mean + torch.sin(torch.tensor(step)) * tangent / step
        mean = mean / length(mean)
    return mean


METHOD = Method(
    "karcher",
    merges(coefficients),
    summary="The mean of the models' directions on the sphere, at their mean length",
    paper="arXiv:2603.04972",
    parameters=(
        Parameter(
            "max_iter", "steps at most; a few suffice for models of one origin",
            default=10, kind=int, minimum=0,
        ),
        Parameter("tol", "the angle, in radians, that ends the steps", default=1e-5, minimum=0.0),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
