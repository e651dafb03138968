"""Targets side by side, and what of each artifact was verified where.

An artifact is verified by running it: its quality, and what it costs, on this machine's processor, on an
emulated one, or on the device that it is for. What was built and never run is verified not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..metrics import QUALITY
from ..units import MISSING, show, show_bytes, show_delta
from .model import TargetReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..graph import Graph, Leaf
    from ..outcome import NodeResult

HOST, EMULATED, DEVICE, NOWHERE = "host", "emulated", "device", ""
WORDS = {HOST: "on this host", EMULATED: "emulated", DEVICE: "on the device", NOWHERE: "not at all"}
QUALITY_NODE = "quality"
COSTS = ("decode_ms", "prefill_ms")


def verified(graph: Graph, leaf: Leaf, results: Mapping[str, NodeResult]) -> dict[str, str]:
    """What was measured of a leaf's artifact → where: one of WORDS, empty where it was to be and was not."""
    found = {}
    for name in leaf.nodes[1:]:
        node = graph.nodes[name]
        what = node.stage.partition(".")[2]
        place = DEVICE if getattr(node.params, "device", "cpu") not in ("", "cpu") else HOST
        if what.startswith(EMULATED):
            what, place = EMULATED, EMULATED
        found[what] = place if results[name].has_output else NOWHERE
    if leaf.emulated:
        # Phones have no Python: nothing that Ingot runs measures on them.
        found[DEVICE] = NOWHERE
    return found


def told(target: TargetReport) -> str:
    """The same in words: ``quality on this host, cost not at all``."""
    own = {what: place for what, place in target.verified.items() if what not in (EMULATED, DEVICE)}
    places = set(target.verified.values())
    if places <= {NOWHERE}:
        return WORDS[NOWHERE]
    if len(places) == 1:
        return WORDS[places.pop()]
    named = {what: WORDS[place] for what, place in own.items()}
    if target.verified.get(EMULATED):
        here = f"{named[QUALITY_NODE]} and " if own.get(QUALITY_NODE) else ""
        named[QUALITY_NODE] = f"{here}{WORDS[EMULATED]} ({_processors(target)})"
    elif EMULATED in target.verified:
        named[EMULATED] = WORDS[NOWHERE]
    if DEVICE in target.verified:
        named[WORDS[DEVICE]] = WORDS[target.verified[DEVICE]]
    return ", ".join(f"{what} {place}" for what, place in named.items())


def _processors(target: TargetReport) -> str:
    return ", ".join(each.processor for each in target.emulated) or "ARM"


@dataclass(frozen=True)
class Line:
    """One target. artifact: its kind.  size: of the model, or of all files where that was not measured."""

    target: TargetReport
    size: str
    quality: str
    cost: str
    verified: str

    @property
    def artifact(self) -> str:
        """The kind of the artifact, and what its weights are in."""
        return self.target.kind or self.target.format or MISSING


def side_by_side(targets: Iterable[TargetReport]) -> tuple[Line, ...]:
    """A line for each target that no matrix fans out, where there are several to compare."""
    lines = tuple(_line(target) for target in targets if target.cell_of is None)
    return lines if len(lines) > 1 else ()


def _line(target: TargetReport) -> Line:
    size = target.metrics.get("size_bytes")
    bytes_ = show_bytes(target.size_bytes) if target.files else MISSING
    return Line(
        target,
        show(size.value, size.unit) if size is not None and size.value is not None else bytes_,
        _quality(target),
        _cost(target),
        told(target),
    )


def _quality(target: TargetReport) -> str:
    for name in (name for name in ("perplexity", "cosine") if name in QUALITY):
        metric = target.metrics.get(name)
        if metric is not None:
            change = show_delta(metric.delta, metric.unit, metric.comparison)
            return f"{name} {show(metric.value, metric.unit)} ({change})"
    return MISSING


def _cost(target: TargetReport) -> str:
    for name in COSTS:
        metric = target.metrics.get(name)
        if metric is not None:
            return f"{name.removesuffix('_ms')} {show(metric.value, metric.unit)}"
    return MISSING
