"""Low-rank changes of a weight, and weights that they are added to: computed in float64, rounded once.

A pair (B, A) changes W by s·B·A (LoRA, arXiv:2106.09685, section 4.1). DoRA puts a learned norm m in place
of that of each output's row: W' = m · V / ‖V‖ with V = W + s·B·A (arXiv:2402.09353, equation 5). Several
adapters add up as changes: W + Σ wᵢ·ΔWᵢ, where their pairs stand side by side, B = [w₁s₁B₁ w₂s₂B₂ ...].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .transform import narrowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

# A block in float64 and its products stay within some megabytes a thread.
BLOCK_ELEMENTS = 1 << 18
NUMPY_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True, eq=False)
class Pair:
    """The change left · right, as the weight is stored. left: [rows, rank].  right: [rank, columns]."""

    left: Doubles
    right: Doubles

    @staticmethod
    def of(pairs: Sequence[Pair]) -> Pair:
        """The sum of changes as one, their ranks added."""
        if len(pairs) == 1:
            return pairs[0]
        return Pair(
            np.concatenate([pair.left for pair in pairs], axis=1),
            np.concatenate([pair.right for pair in pairs], axis=0),
        )

    def truncated(self, rank: int) -> tuple[Pair, float]:
        """The nearest change of that rank in the Frobenius norm (Eckart and Young 1936), and the share of the
        squared norm that it keeps.

        The matrix itself is never made: with left = QL·RL and right = (QR·RR)ᵀ, its singular values are those
        of RL·RRᵀ, which is as small as the rank.
        """
        if rank >= self.left.shape[1]:
            return self, 1.0
        left, left_upper = np.linalg.qr(self.left)
        right, right_upper = np.linalg.qr(self.right.T)
        first, values, second = np.linalg.svd(left_upper @ right_upper.T)
        total = float((values**2).sum())
        kept = float((values[:rank] ** 2).sum())
        root = np.sqrt(values[:rank])
        found = Pair((left @ first[:, :rank]) * root, root[:, None] * (second[:rank] @ right.T))
        return found, kept / total if total else 1.0


@dataclass(frozen=True, eq=False)
class Whole:
    """A change that no pair of low rank is: weight · (its result - W).

    saved: what W is replaced by first, float64, as it is stored.  pair: then added.  magnitude: then the norm
    of each output's row, [out], along the columns where the weight is stored as [in, out].
    """

    weight: float
    saved: Doubles | None = None
    pair: Pair | None = None
    magnitude: Doubles | None = None
    stored_in_out: bool = False


@dataclass(frozen=True)
class Measure:
    """Sums of squares of a tensor: before, of its change, and of what rounding the result took away."""

    before: float
    change: float
    lost: float


def change(
    value: npt.NDArray[np.floating],
    dtype: str,
    pair: Pair | None,
    whole: Sequence[Whole],
    pool: ThreadPoolExecutor,
) -> tuple[npt.NDArray[np.generic], Measure]:
    """W [rows, columns] or [rows] as it is stored → W with all changes, in a stored dtype (BF16 as uint16).

    Raises FloatingPointError where the result has values that the dtype cannot hold.
    """
    matrix = value if value.ndim == 2 else value[:, None]
    found = np.empty(matrix.shape, NUMPY_DTYPES[dtype])
    norms = [_norms(matrix, each, pool) for each in whole]

    def one(rows: slice) -> Measure:
        before = matrix[rows].astype(np.float64)
        after = before if pair is None else before + pair.left[rows] @ pair.right
        for each, norm in zip(whole, norms, strict=True):
            result = _result(before, each, rows, norm)
            # A tensor stored whole, by one adapter of weight one, comes out bit for bit.
            after = (
                result if after is before and each.weight == 1.0 else after + each.weight * (result - before)
            )
        stored = rounded(after, dtype)
        found[rows] = stored
        back = widened(stored, dtype)
        return Measure(_square(before), _square(after - before), _square(back - after))

    measures = list(pool.map(one, _blocks(matrix.shape)))
    total = Measure(
        sum(each.before for each in measures),
        sum(each.change for each in measures),
        sum(each.lost for each in measures),
    )
    return found.reshape(value.shape), total


def rounded(value: Doubles, dtype: str) -> npt.NDArray[np.generic]:
    """float64 → the nearest in a stored dtype, BF16 as uint16; raises FloatingPointError where infinite."""
    if dtype == "BF16":
        return _bfloat16(value)
    with np.errstate(over="ignore"):
        narrow = value.astype(NUMPY_DTYPES[dtype])
    if not np.isfinite(narrow).all():
        raise FloatingPointError
    return narrow


def _bfloat16(value: Doubles) -> npt.NDArray[np.uint16]:
    with np.errstate(over="ignore"):
        single = value.astype(np.float32)
    if not np.isfinite(single).all():
        raise FloatingPointError
    bits = narrowed(single)
    if ((bits & 0x7F80) == 0x7F80).any():
        raise FloatingPointError
    return bits


def widened(stored: npt.NDArray[np.generic], dtype: str) -> Doubles:
    """The inverse of :func:`rounded`, exact."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def _result(before: Doubles, each: Whole, rows: slice, norm: Doubles | None) -> Doubles:
    start = before if each.saved is None else each.saved[rows]
    moved = start if each.pair is None else start + each.pair.left[rows] @ each.pair.right
    if each.magnitude is None or norm is None:
        return moved
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = each.magnitude / norm
        return moved * (factor if each.stored_in_out else factor[rows, None])


def _norms(matrix: npt.NDArray[np.floating], each: Whole, pool: ThreadPoolExecutor) -> Doubles | None:
    """The norm of V for each output, [out]; None where there are no magnitudes."""
    if each.magnitude is None:
        return None
    plain = Whole(1.0, each.saved, each.pair)

    def one(rows: slice) -> Doubles:
        moved = _result(matrix[rows].astype(np.float64), plain, rows, None)
        found: Doubles = (moved**2).sum(axis=0 if each.stored_in_out else 1)
        return found

    parts = list(pool.map(one, _blocks(matrix.shape)))
    squares: Doubles = np.sum(parts, axis=0) if each.stored_in_out else np.concatenate(parts)
    return np.sqrt(squares)


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _square(value: Doubles) -> float:
    return float(np.vdot(value, value))
