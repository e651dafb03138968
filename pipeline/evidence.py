"""What a delivery takes along so that it can be measured again: what was asked, and what it is held against.

The manifest says under `validation` what was to be measured and which bounds hold. The predictions of the
reference, sample by sample with the tokens of the evaluation text, lie in `validation/` of a delivery that is
not verified yet, since the machine that verifies it has no store. A delivery that passed leaves them in the
store, whose digest of them it names: they are often larger than what is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..artifacts import schema
from ..artifacts.manifest import Artifact

if TYPE_CHECKING:
    from .graph import Graph, Leaf
    from .outcome import Outcome

DIRECTORY = "validation"


@dataclass(frozen=True)
class Evidence:
    """Of one target. document: what the manifest says under `validation`.  reference: its predictions, None
    where they could not be made.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    reference: Artifact | None = None


def evidence(graph: Graph, outcome: Outcome) -> dict[str, Evidence]:
    """What each target takes along, by its name."""
    return {name: _of_leaf(graph, outcome, leaf) for name, leaf in graph.targets.items()}


def _of_leaf(graph: Graph, outcome: Outcome, leaf: Leaf) -> Evidence:
    quality, cost = graph.nodes[leaf.quality], graph.nodes[leaf.cost]
    reference = outcome.results[quality.inputs["reference"]].artifact
    source = outcome.results[cost.inputs["source"]].artifact
    document = {
        "reference": reference.digest if reference else None,
        "source_weight_bytes": source.facts["weight_bytes"] if source else None,
        "quality": schema.to_plain(quality.params),
        "cost": schema.to_plain(cost.params),
        "gates": [asdict(rule) for rule in leaf.gates],
    }
    if leaf.emulated:
        document["emulated"] = schema.to_plain(graph.nodes[leaf.emulated].params)
    return Evidence(document, reference)
