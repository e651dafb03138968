"""The weights of an artifact by role and layer: at which width, how many bytes, and how well rounded.

Read from a config and the record of a quantizer alone, so that it costs nothing beside the rest of a report.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import CorruptError, IntakeError
from ...stages.model.checkpoint import Checkpoint
from ...stages.model.quantized import RECORD_FILE, WeightSpec
from .parts import LayerError, TensorError, WeightGroup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ...artifacts.manifest import Artifact
    from ...stages.model.families import Architecture
    from ..outcome import NodeResult

WORST = 10
# What export writes of weights that nobody quantized.
FLOAT, FLOAT_BYTES = "float32", 4
# Where names and sizes of weights are read, and where how they were rounded is.
PLAIN, QUANTIZED = "checkpoint", "quantized-checkpoint"
EMBEDDING, REST = "embedding", "norms, biases"
# Of an encoder-decoder, what roles begin with.
SIDES = ("encoder ", "decoder ")


@dataclass(frozen=True)
class _Weight:
    """A weight that may be quantized, as the architecture knows it."""

    name: str
    role: str
    layer: int | None
    parameters: int


@dataclass
class _Sum:
    """What a group adds up to."""

    widths: dict[str, None] = field(default_factory=dict)
    tensors: int = 0
    parameters: int = 0
    size_bytes: float = 0
    errors: list[float] = field(default_factory=list)


def weight_groups(lineage: Sequence[NodeResult]) -> tuple[WeightGroup, ...]:
    """The weights of what ``lineage`` ends in, in the order of computation; those outside layers come last.

    Empty for an architecture that is outside of the table of families.
    """
    source = _last(lineage, PLAIN) or _last(lineage, QUANTIZED)
    weights = _weights(source.path) if source else ()
    if source is None or not weights:
        return ()
    specs, errors = _specs(lineage), _errors(lineage)
    sums: dict[tuple[str, int | None], _Sum] = {}
    for weight in weights:
        spec = specs.get(weight.name)
        group = sums.setdefault((weight.role, weight.layer), _Sum())
        group.widths[spec.format.width if spec else FLOAT] = None
        group.tensors += 1
        group.parameters += weight.parameters
        group.size_bytes += spec.payload_bits / 8 if spec else weight.parameters * FLOAT_BYTES
        if weight.name in errors:
            group.errors.append(errors[weight.name])
    groups = [
        WeightGroup(
            role,
            layer,
            ", ".join(s.widths),
            s.tensors,
            s.parameters,
            round(s.size_bytes),
            max(s.errors, default=None),
        )
        for (role, layer), s in sums.items()
    ]
    rest = int(str(source.facts.get("parameters", 0))) - sum(group.parameters for group in groups)
    if rest > 0:
        count = _tensors(lineage) - sum(group.tensors for group in groups)
        groups.append(WeightGroup(REST, None, FLOAT, max(1, count), rest, rest * FLOAT_BYTES))
    return tuple(sorted(groups, key=lambda group: group.layer is None))


def worst_tensors(lineage: Sequence[NodeResult]) -> tuple[TensorError, ...]:
    """The tensors that rounding changed most, the worst first."""
    specs = _specs(lineage)
    known = ((name, error) for name, error in _errors(lineage).items() if name in specs)
    errors = sorted(known, key=lambda item: -item[1])
    return tuple(
        TensorError(name, specs[name].format.width, specs[name].parameters, error)
        for name, error in errors[:WORST]
    )


def layer_errors(lineage: Sequence[NodeResult]) -> tuple[LayerError, ...]:
    """The errors of every layer's outputs, in the order of computation; empty where no method saw inputs."""
    source = _last(lineage, PLAIN)
    observed = tensor_evidence(lineage)
    found: dict[str, list[tuple[float, float]]] = {}
    for weight in _weights(source.path) if source else ():
        entry = observed.get(weight.name, {})
        pair = entry.get("weighted_error"), entry.get("rtn_weighted_error")
        if weight.layer is not None and all(isinstance(each, int | float) for each in pair):
            side = next((side for side in SIDES if weight.role.startswith(side)), "")
            found.setdefault(f"{side}{weight.layer}", []).append((float(pair[0]), float(pair[1])))  # type: ignore[arg-type]
    return tuple(
        LayerError(layer, *(sum(column) / len(pairs) for column in zip(*pairs, strict=True)))
        for layer, pairs in found.items()
    )


def tensor_evidence(lineage: Sequence[NodeResult]) -> dict[str, Mapping[str, object]]:
    """What the stages observed of each weight; of one that two stages rounded, what the last did."""
    found: dict[str, Mapping[str, object]] = {}
    for result in lineage:
        observed = result.action.observed.get("stage") if result.action else None
        tensors = observed.get("tensors") if isinstance(observed, Mapping) else None
        for name, entry in tensors.items() if isinstance(tensors, Mapping) else ():
            if isinstance(entry, Mapping):
                found[str(name)] = entry
    return found


def roles_of(directory: Path) -> dict[str, tuple[str, int | None]]:
    """Role and layer of every weight of a checkpoint, in the order of computation; none outside the table."""
    return {weight.name: (weight.role, weight.layer) for weight in _weights(directory)}


def packed_bytes(directory: Path, parameters: int) -> int:
    """The bytes of a quantized checkpoint's weights once packed, those in floating point as float32."""
    specs = _read_specs(directory)
    quantized = sum(spec.parameters for spec in specs.values())
    bits = sum(spec.payload_bits for spec in specs.values())
    return round(bits / 8) + (parameters - quantized) * FLOAT_BYTES


@functools.lru_cache(maxsize=64)
def _weights(directory: Path) -> tuple[_Weight, ...]:
    """The weights of a checkpoint that have a role; none for an unknown architecture."""
    try:
        model = Checkpoint.open(directory).architecture
    except IntakeError:
        return ()  # outside of the table: it exports in floating point, and its weights have no roles
    return tuple(_named(model))


def _named(model: Architecture) -> Iterator[_Weight]:
    yield _Weight(model.embedding, EMBEDDING, None, model.vocabulary * model.embedding_width)
    sources = {linear.name for linear in model.encoder.linears} if model.encoder else set()
    for linear in (*model.linears, *model.gates):
        side = "" if not model.encoder or linear.layer is None else SIDES[linear.name not in sources]
        yield _Weight(linear.name, side + linear.role, linear.layer, linear.out_features * linear.in_features)


def _last(lineage: Sequence[NodeResult], kind: str) -> Artifact | None:
    found = (result.artifact for result in reversed(lineage) if result.artifact)
    return next((artifact for artifact in found if artifact.kind == kind), None)


def _specs(lineage: Sequence[NodeResult]) -> Mapping[str, WeightSpec]:
    artifact = _last(lineage, QUANTIZED)
    return _read_specs(artifact.path) if artifact else {}


@functools.lru_cache(maxsize=64)
def _read_specs(directory: Path) -> Mapping[str, WeightSpec]:
    path = directory / RECORD_FILE
    try:
        record = json.loads(path.read_text("utf-8"))
        return {name: WeightSpec.from_json(entry) for name, entry in record["weights"].items()}
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptError(f"not a quantization record: {error}", where=str(path)) from None


def _errors(lineage: Sequence[NodeResult]) -> dict[str, float]:
    """Tensor → relative error, as the stages observed; one that rounds twice keeps the last."""
    errors = ((name, entry.get("relative_error")) for name, entry in tensor_evidence(lineage).items())
    return {
        name: float(error)
        for name, error in errors
        if isinstance(error, int | float) and math.isfinite(error)
    }


def _tensors(lineage: Sequence[NodeResult]) -> int:
    """How many tensors the artifact has, as its exporter counted them."""
    stated = (
        result.artifact.facts.get("weights_by_width") for result in reversed(lineage) if result.artifact
    )
    widths: Any = next((widths for widths in stated if widths), {})
    return sum(int(width["tensors"]) for width in widths.values())
