"""The singular values of a matrix from the largest on, as far as they are asked for.

Up to 1024 rows or columns all of them are computed. Above that, the range of the matrix is found by random
vectors (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.1): a sketch of a few columns
more than are wanted, multiplied by the matrix and its transpose four times, so that slowly falling singular
values are found as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

DENSE = 1024
OVERSAMPLED, POWERS = 16, 4
BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class Factors:
    """matrix ≈ up · down. up: float64 [rows, rank].  down: [rank, columns]; each has the root of the singular
    values.
    """

    up: Doubles
    down: Doubles


def factor(matrix: Floats, rank: int, energy: float | None, seed: int) -> Factors:
    """The best factors of a matrix [rows, columns] of at most that rank.

    energy: share of the squared norm that is enough; the rank is then the smallest that keeps as much.  seed:
    of the random vectors.  A matrix of zeros has rank 0.
    """
    total = square(matrix)
    if total == 0.0:
        return Factors(np.empty((matrix.shape[0], 0)), np.empty((0, matrix.shape[1])))
    left, values, right = largest(matrix, min(rank, *matrix.shape), seed)
    wanted = len(values)
    if energy is not None:
        enough = np.flatnonzero(np.cumsum(values**2) >= energy * total)
        wanted = int(enough[0]) + 1 if len(enough) else wanted
    root = np.sqrt(values[:wanted])
    return Factors(left[:, :wanted] * root, root[:, None] * right[:wanted])


def largest(matrix: Floats | Doubles, count: int, seed: int) -> tuple[Doubles, Doubles, Doubles]:
    """The first ``count`` singular triplets: left [rows, count], values [count], right [count, columns]."""
    if min(matrix.shape) <= max(DENSE, 2 * (count + OVERSAMPLED)):
        left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        return left[:, :count], values[:count], right[:count]
    generator = np.random.Generator(np.random.PCG64([seed, *matrix.shape]))
    sketch = generator.standard_normal((matrix.shape[1], count + OVERSAMPLED), dtype=np.float32)
    basis = _orthonormal(matrix @ sketch)
    for _ in range(POWERS):
        basis = _orthonormal(matrix @ _orthonormal(matrix.T @ basis))
    left, values, right = np.linalg.svd((basis.T @ matrix).astype(np.float64), full_matrices=False)
    return basis.astype(np.float64) @ left[:, :count], values[:count], right[:count]


def square(value: Floats | Doubles) -> float:
    """The squared norm of a tensor, added up in float64."""
    flat = value.reshape(-1)
    parts = (flat[start : start + BLOCK].astype(np.float64) for start in range(0, flat.size, BLOCK))
    return float(sum(np.vdot(part, part) for part in parts))


def missed(matrix: Floats, up: Doubles, down: Doubles) -> float:
    """The squared norm of matrix - up · down, some rows at a time."""
    step = max(1, BLOCK // matrix.shape[1])
    places = (slice(start, start + step) for start in range(0, len(matrix), step))
    return float(sum(((matrix[rows] - up[rows] @ down) ** 2).sum() for rows in places))


def _orthonormal(columns: Floats | Doubles) -> Floats:
    found, _ = np.linalg.qr(columns.astype(np.float64))
    return found.astype(np.float32)
