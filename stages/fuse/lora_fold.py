"""One tensor of a base with the changes of all adapters in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import StageError
from .low_rank import Measure, Pair, Whole, change

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from ...artifacts.tensors import TensorShape, TensorSource
    from .lora_targets import Target, Term

    Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Folded:
    """A tensor to write. kept: share of the squared change that its cut to a rank keeps."""

    value: npt.NDArray[Any]
    measure: Measure
    kept: float


def fold(
    tensors: TensorSource,
    origin: str,
    shape: TensorShape,
    target: Target | None,
    rank: int | None,
    pool: ThreadPoolExecutor,
) -> Folded:
    """The tensor ``origin`` with the changes of ``target``, as ``shape`` is stored.

    rank: what the sum of all pairs is cut to.  Raises StageError where the result is not finite.
    """
    terms = target.terms if target else []
    turned = target is not None and target.stored_in_out
    pairs = [_pair(term, turned, term.use.weight) for term in terms if _is_pair(term)]
    whole = [_whole(term, turned) for term in terms if not _is_pair(term)]
    pair, kept = (Pair.of(pairs), 1.0) if pairs else (None, 1.0)
    if pair is not None and rank is not None and len(shape.shape) == 2:
        pair, kept = pair.truncated(rank)
    is_double = tensors.info(origin).dtype == "F64"
    value = tensors.array(origin) if is_double else tensors.float32(origin)
    try:
        found, measure = change(value, shape.dtype, pair, whole, pool)
    except FloatingPointError:
        names = ", ".join(dict.fromkeys(term.use.name for term in terms))
        raise StageError(
            f"{shape.name} with {names or 'no change'} has values that {shape.dtype} cannot hold",
            fix="write fuse.dtype: float32; where that does not help, the adapter is broken",
        ) from None
    return Folded(found.view(np.uint8).reshape(-1) if shape.dtype == "BF16" else found, measure, kept)


def _is_pair(term: Term) -> bool:
    """Whether a term adds a pair and does nothing else."""
    return term.saved is None and term.pair is not None and (term.is_bias or term.pair.magnitude is None)


def _whole(term: Term, turned: bool) -> Whole:
    tensors, pair = term.use.adapter.tensors, term.pair
    saved = None if term.saved is None else tensors.float32(term.saved).astype(np.float64)
    magnitude = None
    if pair is not None and pair.magnitude is not None and not term.is_bias:
        magnitude = tensors.float32(pair.magnitude).astype(np.float64)
    return Whole(
        term.use.weight,
        saved if saved is None or saved.ndim == 2 else saved[:, None],
        None if pair is None else _pair(term, turned, 1.0),
        magnitude,
        turned,
    )


def _pair(term: Term, turned: bool, weight: float) -> Pair:
    """weight · scale · B·A as the tensor is stored; of a bias, weight · scale · b."""
    tensors, pair = term.use.adapter.tensors, term.pair
    if pair is None:
        raise AssertionError("a term without a pair")
    factor = weight * pair.scale
    if term.is_bias and pair.bias is not None:
        return Pair(tensors.float32(pair.bias).astype(np.float64)[:, None] * factor, np.ones((1, 1)))
    up, down = (tensors.float32(name).astype(np.float64) for name in (pair.up, pair.down))
    return Pair(down.T * factor, up.T) if turned else Pair(up * factor, down)
