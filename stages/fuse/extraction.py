"""The tensors of an adapter that is made of the difference between two checkpoints, with what they miss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import InputError
from ...artifacts.tensors import TensorShape
from ..model.adapters import PREFIX
from ..model.low_rank import factor, missed, square
from .low_rank import rounded, widened

if TYPE_CHECKING:
    from .siblings import Siblings

Stored = npt.NDArray[np.generic]
SHOWN_DIGITS = 4


@dataclass(frozen=True)
class Cut:
    """How differences are cut: see :func:`ingot.stages.model.low_rank.factor`.

    dtype: F32 ...  ignore: those without pairs.
    """

    rank: int
    energy: float | None
    dtype: str
    ignore: tuple[str, ...]
    seed: int


@dataclass
class Extraction:
    """What has been found so far. tensors: of the adapter, by name.  ranks: module → rank of its pair.

    pairs: weight → its rank, the share of the difference's norm that the pair misses, and the share of the
    weight's norm that changed.  left_out: changed tensor without a pair → the latter.  squares: of all
    differences, of what pairs miss, and of what has no pair.
    """

    tensors: dict[str, tuple[TensorShape, Stored]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    saved: list[str] = field(default_factory=list)
    has_biases: bool = False
    pairs: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("all", "missed", "others"), 0.0))

    def add(self, name: str, dtype: str, shape: tuple[int, ...], value: Stored) -> None:
        """Adds a tensor of the adapter, under its name without PEFT's prefix."""
        self.tensors[PREFIX + name] = (TensorShape(PREFIX + name, dtype, shape), value)


def take(made: Extraction, both: Siblings, name: str, cut: Cut) -> None:
    """Factors a tensor's difference, or counts it to what no pair holds."""
    before, change = both.read(name)
    total = square(change)
    if total == 0.0:
        return
    made.squares["all"] += total
    size = square(before)
    relative = short(math.sqrt(total / size)) if size else math.inf
    linear, module = both.linears.get(name), both.module(name)
    if linear is None or module is None or any(fnmatchcase(name, each) for each in cut.ignore):
        made.left_out[name] = relative
        made.squares["others"] += total
        return
    matrix = change.T if linear.stored_in_out else change
    factors = factor(matrix, cut.rank, cut.energy, cut.seed)
    dtype = cut.dtype
    up, down = (rounded(each, dtype) for each in (factors.up, factors.down))
    lost = missed(matrix, widened(up, dtype), widened(down, dtype))
    made.squares["missed"] += lost
    made.ranks[module] = len(down)
    made.pairs[name] = {"rank": len(down), "missed": short(math.sqrt(lost / total)), "changed": relative}
    made.add(f"{module}.lora_A.weight", dtype, down.shape, down)
    made.add(f"{module}.lora_B.weight", dtype, up.shape, up)


def save(made: Extraction, both: Siblings, name: str) -> None:
    """Stores a changed tensor as it is: a bias of a linear map beside the pairs, others with their module.

    An embedding that is the output head too is stored as both, so that they stay one.
    """
    module = both.module(name)
    model = both.model.architecture
    is_table = both.tied and name in model.embeddings
    if module is None or (is_table and both.head is None):
        what = f"{name} differs, and no adapter can store it"
        raise InputError(what, fix="set fuse.others: report, which leaves it out and says so")
    if name in {linear.bias for linear in both.linears.values()}:
        made.has_biases = True
        stored = f"{module}.base_layer.bias" if module in made.ranks else f"{module}.bias"
        made.add(stored, *_raw(both, name))
        return
    head = both.module(both.head) if is_table and both.head else None
    for each in (module, *([head] if head else [])):
        if each in made.saved:
            continue
        made.saved.append(each)
        stem = name.rpartition(".")[0]
        for part in ("weight", "bias"):
            if f"{stem}.{part}" in both.names:
                made.add(f"{each}.{part}", *_raw(both, f"{stem}.{part}"))


def _raw(both: Siblings, name: str) -> tuple[str, tuple[int, ...], Stored]:
    """A tensor of the model as it is stored."""
    info = both.model.tensors.info(both.stored(both.model, name))
    return info.dtype, info.shape, both.model.tensors.raw(info.name)


def short(value: float) -> float:
    """A number as records show it."""
    return float(f"{value:.{SHOWN_DIGITS}g}")
