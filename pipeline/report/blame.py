"""What each stage on the way to an artifact saved in bytes and cost in quality.

Bytes are known after every stage. Quality is measured in what is delivered, end to end; a stage in between is
measured where another target exports what it made as it is, so a run with an unquantized target tells what
its shared stages cost from what quantizing did.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..metrics import QUALITY
from .parts import Step
from .weights import PLAIN, QUANTIZED, packed_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...artifacts.manifest import Artifact
    from ..graph import Graph, Leaf
    from ..outcome import Outcome
    from .model import TargetReport

# What size is measured in: the graph and its weights, not tokenizers and configs. An artifact that holds the
# model in more than one format states which of its files count.
MODEL_FILES = ("model.",)
STATED_FILES = "model_files"
WEIGHT_FILES = ".safetensors"
ADAPTER = "adapter"


def with_steps(
    graph: Graph, outcome: Outcome, targets: Mapping[str, TargetReport]
) -> dict[str, TargetReport]:
    """The targets with what each of their stages cost; the order is kept."""
    return {
        name: replace(target, steps=_steps(graph, outcome, targets, graph.targets[name]))
        for name, target in targets.items()
    }


def chain(graph: Graph, name: str) -> list[str]:
    """The nodes from the source to ``name``; where a node takes several, by way of the first."""
    found = [name]
    while inputs := graph.nodes[found[-1]].inputs:
        found.append(next(iter(inputs.values())))
    return found[::-1]


def _steps(
    graph: Graph, outcome: Outcome, targets: Mapping[str, TargetReport], leaf: Leaf
) -> tuple[Step, ...]:
    found = []
    for name in chain(graph, leaf.artifact):
        artifact = outcome.results[name].artifact
        measured = _measured(graph, targets, leaf, name)
        delta, target = measured or (None, "")
        found.append(
            Step(name, graph.nodes[name].stage, _bytes(artifact) if artifact else None, delta, target)
        )
    return tuple(found)


def _measured(
    graph: Graph, targets: Mapping[str, TargetReport], leaf: Leaf, name: str
) -> tuple[float, str] | None:
    """The change of quality at a node of a target's chain, and whose measurement it is."""
    if name == leaf.artifact:
        return _delta(targets, leaf)
    if name == _compared_with(graph, leaf):
        return 0.0, ""
    for other in graph.targets.values():
        inputs = graph.nodes[other.artifact].inputs.values()
        # The target's own export is what comes next, so it tells nothing of this node alone.
        if other.artifact != leaf.artifact and list(inputs) == [name]:
            found = _delta(targets, other)
            if found is not None:
                return found
    return None


def _compared_with(graph: Graph, leaf: Leaf) -> str | None:
    """The node whose output is the reference of a target's quality."""
    reference = graph.nodes[leaf.quality].inputs.get("reference")
    return graph.nodes[reference].inputs.get("model") if reference else None


def _delta(targets: Mapping[str, TargetReport], leaf: Leaf) -> tuple[float, str] | None:
    metrics = targets[leaf.target].metrics
    deltas = (metrics[name].delta for name in QUALITY if name in metrics)
    return next(((delta, leaf.target) for delta in deltas if delta is not None), None)


def _bytes(artifact: Artifact) -> int:
    """The bytes of an artifact's weights, packed."""
    if artifact.kind == QUANTIZED:
        return packed_bytes(artifact.path, int(str(artifact.facts["parameters"])))
    files = artifact.record.files
    if artifact.kind in (PLAIN, ADAPTER):
        return sum(file.size for file in files if file.path.endswith(WEIGHT_FILES))
    stated = artifact.facts.get(STATED_FILES)
    names = tuple(map(str, stated)) if isinstance(stated, list) else MODEL_FILES
    return sum(file.size for file in files if file.path.startswith(names))
