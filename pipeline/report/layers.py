"""Places a small acyclic graph on a plane: layers from left to right, few crossings, straight long edges.

The layered method of Sugiyama, Tagawa and Toda (IEEE Transactions on Systems, Man, and Cybernetics 11, 1981):
longest-path layers, stand-ins where an edge crosses a layer, ordering by barycentres, then placing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SWEEPS = 8
GAP = 18.0
STAND_IN_HEIGHT = 14.0
Layers = list[list[str]]


@dataclass(frozen=True)
class Placement:
    """depth: node → its layer.  middle: node → the vertical middle of its box.  paths: (from, to) → the
    vertical middles of an edge in every layer that it passes, ends included.  height: of the whole.
    """

    depth: Mapping[str, int]
    middle: Mapping[str, float]
    paths: Mapping[tuple[str, str], Sequence[float]]
    height: float


def place(inputs: Mapping[str, Sequence[str]], box_height: float) -> Placement:
    """Places nodes; inputs: node → the nodes it takes, in topological order."""
    depth: dict[str, int] = {}
    for name, sources in inputs.items():
        depth[name] = 1 + max((depth[source] for source in sources), default=-1)
    chains = _chains(inputs, depth)
    layers: Layers = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, layer in depth.items():
        layers[layer].append(name)
    for (source, _), chain in chains.items():
        for offset, stand_in in enumerate(chain[1:-1], start=depth[source] + 1):
            layers[offset].append(stand_in)
    before, after = _neighbours(chains)
    _order(layers, before, after)
    heights = {item: box_height if item in depth else STAND_IN_HEIGHT for layer in layers for item in layer}
    middle = _settle(layers, heights, before, after)
    top = min(middle[item] - heights[item] / 2 for item in middle) if middle else 0.0
    middle = {item: y - top for item, y in middle.items()}
    return Placement(
        depth,
        {name: middle[name] for name in depth},
        {edge: [middle[item] for item in chain] for edge, chain in chains.items()},
        max((middle[item] + heights[item] / 2 for item in middle), default=0.0),
    )


def reduced(inputs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The graph without edges that others imply: those to what comes to a node by way of another input too.

    inputs: node → the nodes it takes, in topological order; what is no node of the graph is left out.
    """
    above: dict[str, set[str]] = {}
    kept = {}
    for name, taken in inputs.items():
        sources = [source for source in dict.fromkeys(taken) if source in above]
        beyond = set().union(*(above[source] for source in sources))
        kept[name] = [source for source in sources if source not in beyond]
        above[name] = beyond.union(sources)
    return kept


def _chains(
    inputs: Mapping[str, Sequence[str]], depth: Mapping[str, int]
) -> dict[tuple[str, str], list[str]]:
    """Every edge as the items it goes through: its ends, and a stand-in in each layer between."""
    chains = {}
    for name, sources in inputs.items():
        for source in sources:
            between = [f"{source}\n{name}\n{layer}" for layer in range(depth[source] + 1, depth[name])]
            chains[source, name] = [source, *between, name]
    return chains


def _neighbours(
    chains: Mapping[tuple[str, str], list[str]],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for chain in chains.values():
        for left, right in itertools.pairwise(chain):
            before.setdefault(right, []).append(left)
            after.setdefault(left, []).append(right)
    return before, after


def _order(layers: Layers, before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> None:
    """Sorts each layer by the mean place of its neighbours, forth and back a few times, in place."""
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        for layer in layers if forth else reversed(layers):
            place_of = {
                item: index / max(1, len(row) - 1) for row in layers for index, item in enumerate(row)
            }
            sides = before if forth else after

            def mean(
                item: str, sides: Mapping[str, list[str]] = sides, at: Mapping[str, float] = place_of
            ) -> float:
                near = sides.get(item)
                return sum(at[other] for other in near) / len(near) if near else at[item]

            layer.sort(key=mean)


def _settle(
    layers: Layers,
    heights: Mapping[str, float],
    before: Mapping[str, list[str]],
    after: Mapping[str, list[str]],
) -> dict[str, float]:
    """Vertical middles: each item near the mean of its neighbours, in order, never closer than the gap."""
    middle: dict[str, float] = {}
    for layer in layers:
        y = -sum(heights[item] + GAP for item in layer) / 2
        for item in layer:
            middle[item] = y + heights[item] / 2
            y += heights[item] + GAP
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            wish = {}
            for item in layer:
                near = [*before.get(item, ()), *after.get(item, ())]
                wish[item] = sum(middle[other] for other in near) / len(near) if near else middle[item]
            middle |= _spread(layer, wish, heights)
    return middle


def _spread(
    layer: Sequence[str], wish: Mapping[str, float], heights: Mapping[str, float]
) -> dict[str, float]:
    """Items at their wishes where there is room; crowded ones as a block around the mean of their wishes."""
    blocks: list[tuple[list[str], float]] = []
    for item in layer:
        members, centre = [item], wish[item]
        while blocks and _edge(blocks[-1], heights, 1) + GAP > _edge((members, centre), heights, -1):
            earlier, other = blocks.pop()
            share = len(earlier) / (len(earlier) + len(members))
            members, centre = [*earlier, *members], other * share + centre * (1 - share)
        blocks.append((members, centre))
    placed = {}
    for members, centre in blocks:
        y = _edge((members, centre), heights, -1)
        for item in members:
            placed[item] = y + heights[item] / 2
            y += heights[item] + GAP
    return placed


def _edge(block: tuple[list[str], float], heights: Mapping[str, float], side: int) -> float:
    """The lower (side 1) or upper (side -1) edge of a block of items."""
    members, centre = block
    return centre + side * (sum(heights[item] for item in members) + GAP * (len(members) - 1)) / 2
