"""Weights that a network uses in several places: a walk shows them once, with the inputs of all their uses.

Whoever visits then sees the text as often as the weight does, and sums over it are sums over all uses. Places
before the last are computed with the weight as it was: what replaces it is not known there yet.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    import torch

    from ..families import Linear
    from .walk import Stop

    Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class _Use:
    """What a weight read in one place; exact: in the network whose weights nothing has replaced.

    onto, exact_onto: as in the stop.
    """

    inputs: Inputs
    exact: Inputs | None
    onto: Inputs | None
    exact_onto: Inputs | None


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
        others = (
            None if each is None else tuple(map(self._keep, each))
            for each in (stop.exact, stop.onto, stop.exact_onto)
        )
        return _Use(tuple(map(self._keep, stop.inputs)), *others)


def _joined(stop: Stop, linears: tuple[Linear, ...], earlier: tuple[_Use, ...]) -> Stop:
    inputs, exact, onto, exact_onto = (
        _all([*(getattr(use, name) for use in earlier), getattr(stop, name)])
        for name in ("inputs", "exact", "onto", "exact_onto")
    )
    return replace(stop, linears=linears, inputs=inputs or (), exact=exact, onto=onto, exact_onto=exact_onto)


def _all(parts: Sequence[Inputs | None]) -> Inputs | None:
    """Those of all uses; None where one of them has none."""
    found = [part for part in parts if part is not None]
    return tuple(each for part in found for each in part) if len(found) == len(parts) else None
