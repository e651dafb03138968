"""Weights that a network uses in several places: a walk shows them once, with the inputs of all their uses.

Whoever visits then sees the text as often as the weight does, and sums over it are sums over all uses. Places
before the last are computed with the weight as it was: what replaces it is not known there yet.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import torch

    from ..families import Linear
    from .walk import Stop

    Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class _Use:
    """What a weight read in one place; exact: in the network whose weights nothing has replaced."""

    inputs: Inputs
    exact: Inputs | None


class Uses:
    """Counts what is still to come. linears: of all steps, as often as they are used.

    wanted: the names of those that are shown.  keep: is given what is held, and gives what to hold instead.
    """

    def __init__(
        self, linears: Iterable[Linear], wanted: Collection[str], keep: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self._left = Counter(linear.name for linear in linears if linear.name in wanted)
        self._keep = keep
        self._held: dict[str, tuple[_Use, ...]] = {}

    def __bool__(self) -> bool:
        """Whether a weight has been met whose last use is still to come."""
        return bool(self._held)

    def due(self, stop: Stop) -> Iterator[Stop]:
        """The stop as it is to be shown: its weights at their last use, those with the same uses together."""
        groups: dict[tuple[_Use, ...], list[Linear]] = {(): []}
        use: _Use | None = None
        for linear in stop.linears:
            self._left[linear.name] -= 1
            if self._left[linear.name] > 0:
                use = use or self._hold(stop)
                self._held[linear.name] = (*self._held.get(linear.name, ()), use)
            else:
                groups.setdefault(self._held.pop(linear.name, ()), []).append(linear)
        for earlier, linears in groups.items():
            if linears:
                yield _joined(stop, tuple(linears), earlier)

    def _hold(self, stop: Stop) -> _Use:
        exact = None if stop.exact is None else tuple(map(self._keep, stop.exact))
        return _Use(tuple(map(self._keep, stop.inputs)), exact)


def _joined(stop: Stop, linears: tuple[Linear, ...], earlier: tuple[_Use, ...]) -> Stop:
    inputs = tuple(each for use in earlier for each in use.inputs) + stop.inputs
    if stop.exact is None or any(use.exact is None for use in earlier):
        return replace(stop, linears=linears, inputs=inputs, exact=None)
    exact = tuple(each for use in earlier for each in use.exact or ()) + stop.exact
    return replace(stop, linears=linears, inputs=inputs, exact=exact)
