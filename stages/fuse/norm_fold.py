"""Which tensors take in the gains and shifts of norms, and what becomes of them.

A norm gives g·n + b of a normalized state n. What alone reads it, maps y = W·x + c, may take both in:
W·(g·n + b) + c = (W·diag(g))·n + (W·b + c), and the norm keeps the gain 1 and the shift 0. Where a map has no
bias to take the shift in, the norm keeps b / g in place of it, if no gain is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..model.families import Linear, Norm
from ..model.fold import folds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...artifacts.tensors import TensorSource
    from ..model.families import Architecture

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NormFold:
    """One norm and its readers. takes_shift: they have biases, which take its shift in."""

    norm: Norm
    readers: tuple[Linear, ...]
    takes_shift: bool


@dataclass
class NormFolds:
    """The folds of a network, by the tensors that they change. left: norms that stay, with the reason.

    offset: what stored gains are short of, 1 in Gemma's norms.
    """

    by_weight: dict[str, tuple[NormFold, Linear]] = field(default_factory=dict)
    by_bias: dict[str, tuple[NormFold, Linear]] = field(default_factory=dict)
    by_gain: dict[str, NormFold] = field(default_factory=dict)
    by_shift: dict[str, NormFold] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    offset: float = 0.0

    @staticmethod
    def of(model: Architecture, tensors: TensorSource) -> NormFolds:
        """What can be folded exactly in a network with those tensors."""
        found = NormFolds(offset=1.0 if model.norm == "rms_above_one" else 0.0)
        for fold in folds(model):
            if not isinstance(fold.source, Norm):
                continue
            norm = fold.source
            takes_shift = norm.bias is not None and all(linear.bias for linear in fold.readers)
            gain = tensors.float32(norm.weight)
            if norm.bias is not None and not takes_shift and not gain.all():
                found.left[norm.weight] = "has gains of zero, and maps behind it have no bias for its shift"
                continue
            found.add(NormFold(norm, fold.readers, takes_shift))
        for norm in _norms(model):
            if norm.weight not in found.by_gain:
                found.left.setdefault(norm.weight, "is read by more than maps that can take it in")
        return found

    def add(self, fold: NormFold) -> None:
        """Adds one."""
        self.by_gain[fold.norm.weight] = fold
        if fold.norm.bias is not None:
            self.by_shift[fold.norm.bias] = fold
        for linear in fold.readers:
            self.by_weight[linear.name] = (fold, linear)
            if fold.takes_shift and linear.bias is not None:
                self.by_bias[linear.bias] = (fold, linear)

    def __contains__(self, name: str) -> bool:
        return any(name in each for each in (self.by_weight, self.by_bias, self.by_gain, self.by_shift))

    def changed(self, name: str, tensors: TensorSource) -> Doubles:
        """A tensor with what is folded into it, or taken out of it, float64 as it is stored."""
        value: Doubles = tensors.float32(name).astype(np.float64)
        if name in self.by_gain:
            return np.full_like(value, 1.0 - self.offset)
        if name in self.by_shift:
            fold = self.by_shift[name]
            return np.zeros_like(value) if fold.takes_shift else value / self._gain(fold.norm, tensors)
        if name in self.by_weight:
            fold, linear = self.by_weight[name]
            gain = self._gain(fold.norm, tensors)
            return value * (gain[:, None] if linear.stored_in_out else gain)
        fold, linear = self.by_bias[name]
        if fold.norm.bias is None:
            raise AssertionError("a shift is folded that the norm does not have")
        weight = tensors.float32(linear.name).astype(np.float64)
        shift = tensors.float32(fold.norm.bias).astype(np.float64)
        return value + (shift @ weight if linear.stored_in_out else weight @ shift)

    def _gain(self, norm: Norm, tensors: TensorSource) -> Doubles:
        return tensors.float32(norm.weight).astype(np.float64) + self.offset


def _norms(model: Architecture) -> Iterator[Norm]:
    """Every norm of a network that has a gain for each feature of its states."""
    halves = (model.encoder, model) if model.encoder else (model,)
    for half in halves:
        norms = [half.embedding_norm, half.final_norm]
        for layer in half.layers:
            norms += [
                layer.attention_norm, layer.cross_attention_norm, layer.feed_forward_norm,
                layer.attention_post_norm, layer.feed_forward_post_norm,
            ]  # fmt: skip
        yield from (norm for norm in norms if norm is not None)
