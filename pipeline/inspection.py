"""What a checkpoint is and what each target would make of it, from headers alone: no weight is read.

A 70B checkpoint is inspected in well under a second, before anything is downloaded twice or built once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.errors import IntakeError, RecipeError, RequirementError
from ..stages import base
from ..stages.load.hub import resolve
from ..stages.load.intake import SourceFacts, inspect_source
from ..stages.model.checkpoint import Checkpoint
from ..stages.model.weights import network_tensors
from ..targets import profile as profiles
from .assemble import build_graph
from .outside import note
from .recipe import recipe_from_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stages.model.families import Architecture
    from ..stages.model.quantized import WeightSpec
    from .graph import Graph

FLOAT_BYTES = 4
# Bytes of a weight in floating point, by the dtype that an exporter writes.
FLOATS = {"float32": FLOAT_BYTES, "float16": 2, "bfloat16": 2}
# Artifacts keep keys and values in float32; a key and a value each.
KV_PARTS = 2
# A cache is sized for at most this many tokens: few programs fill the longest context a model allows.
KV_TOKENS = 4096
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Part:
    """Tensors that differ in their layer alone. name: with `*` for the layer's number.  shape: of each."""

    name: str
    count: int
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    size_bytes: int


@dataclass(frozen=True)
class Need:
    """What one target would make of the model.

    stages: what would run.  disk_bytes: of the delivered weights.  memory_bytes: those and the cache of
    ``kv_tokens`` tokens of one sequence.  widths: parameters by width.  fault: why it cannot, empty else.
    """

    target: str
    stages: tuple[str, ...] = ()
    disk_bytes: int = 0
    memory_bytes: int = 0
    widths: Mapping[str, int] | None = None
    fault: str = ""


@dataclass(frozen=True)
class Inspection:
    """A checkpoint from its headers.

    kv_bytes_per_token: float32, all layers, one sequence; 0 of a model that keeps none, and of one outside
    the table, where notes say what is not available.
    objection: why intake would refuse it; then ``facts`` is None and parts are what the headers list.
    """

    directory: Path
    facts: SourceFacts | None
    parts: tuple[Part, ...]
    kv_bytes_per_token: int = 0
    kv_tokens: int = 0
    needs: tuple[Need, ...] = ()
    objection: IntakeError | None = None
    notes: tuple[str, ...] = ()


def inspect(model: str, targets: tuple[str, ...] = ()) -> Inspection:
    """Inspects a checkpoint for ``targets``, by default every built-in one that can be built.

    Raises IntakeError when not even the headers can be read, RecipeError for an unknown target.
    """
    directory = resolve(model)
    checkpoint = Checkpoint.open(directory)
    try:
        facts = inspect_source(directory)
    except IntakeError as objection:
        return Inspection(directory, None, parts(checkpoint), objection=objection)
    kv = 0
    if facts.task != "encoder" and facts.known_family:
        architecture = checkpoint.architecture
        kv = KV_PARTS * len(architecture.layers) * architecture.kv_heads * architecture.head_dim * FLOAT_BYTES
    tokens = min(facts.context, KV_TOKENS)
    wanted = targets or tuple(name for name in profiles.names() if profiles.get(name).status == "built")
    needs = tuple(_need(str(directory), name, facts, checkpoint, kv * tokens) for name in wanted)
    notes = () if facts.known_family else (note(asdict(facts)),)
    return Inspection(directory, facts, parts(checkpoint), kv, tokens, needs, notes=notes)


def parts(checkpoint: Checkpoint) -> tuple[Part, ...]:
    """The tensors, those of all layers together, in the order in which they are stored."""
    grouped: dict[tuple[str, tuple[int, ...], str], list[int]] = {}
    for name in checkpoint.tensors.names():
        info = checkpoint.tensors.info(name)
        entry = grouped.setdefault((LAYER.sub("*", name), info.shape, info.dtype), [0, 0, 0])
        entry[0] += 1
        entry[1] += info.count
        entry[2] += info.nbytes
    return tuple(
        Part(name, count, shape, dtype, parameters, size)
        for (name, shape, dtype), (count, parameters, size) in grouped.items()
    )


def _need(model: str, target: str, facts: SourceFacts, checkpoint: Checkpoint, kv_bytes: int) -> Need:
    try:
        graph = build_graph(recipe_from_options(model, (target,)), asdict(facts))
    except RequirementError as error:  # the target's device cannot hold it, or compute with it
        return Need(target, fault=str(error))
    except RecipeError as error:
        if target not in profiles.names():
            raise
        return Need(target, fault=str(error))
    floats = _floats(graph, target)
    specs = _specs(graph, target, checkpoint.architecture) if facts.known_family else {}
    widths: dict[str, int] = {}
    disk = 0
    for name in network_tensors(checkpoint):
        parameters = checkpoint.tensors.info(name).count
        spec = specs.get(name)
        width = spec.format.width if spec else floats
        widths[width] = widths.get(width, 0) + parameters
        disk += spec.payload_bits // 8 if spec else parameters * FLOATS[floats]
    stages = tuple(graph.nodes[name].stage for name in _branch(graph, target))
    return Need(target, stages, disk, disk + kv_bytes, widths)


def _branch(graph: Graph, target: str) -> Iterator[str]:
    """The nodes between `load` and what is delivered, first to last."""
    found = [graph.targets[target].artifact]
    while inputs := list(graph.nodes[found[-1]].inputs.values()):
        found.append(inputs[0])
    return reversed(found)


def _floats(graph: Graph, target: str) -> str:
    """The dtype in which the exporter writes what is not quantized; float32 where it has no choice."""
    exports = (graph.nodes[name] for name in _branch(graph, target))
    dtypes = (getattr(node.params, "dtype", None) for node in exports if node.stage.startswith("export."))
    return next((dtype for dtype in dtypes if dtype in FLOATS), "float32")


def _specs(graph: Graph, target: str, model: Architecture) -> Mapping[str, WeightSpec]:
    for name in _branch(graph, target):
        stage = base.get(graph.nodes[name].stage)
        if stage.formats is not None:
            return stage.formats(graph.nodes[name].params, model)
    return {}
