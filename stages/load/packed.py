"""Intake of checkpoints whose weights other programs quantized: what they are, from headers alone.

Like `intake.py`, it runs while planning and imports neither numpy nor a framework.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ...artifacts.tensor_header import TensorInfo
from ...artifacts.tensors import TensorSource
from ..model.checkpoint import CONFIG_FILE, Checkpoint, read_object
from ..model.dtypes import main_dtype
from ..model.families import Architecture, architecture
from ..model.packed import Reader, open_reader
from ..model.quantized import WeightSpec
from ..model.tokenizer import check_tokenizer
from ..model.weights import check_tensors, expected_tensors
from .files import source_files
from .intake import QUANTIZATION, SourceFacts, check_config, class_name, weight_bytes
from .origin import describe_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

WEIGHT = ".weight"


@dataclass(frozen=True)
class PackedFacts(SourceFacts):
    """What is known of a quantized source. dtype: of what stayed in floating point.

    layout: how its weights are packed: gptq, awq, compressed-tensors or bitsandbytes.  weights: the width of
    most of them, such as int4.
    """

    layout: str = ""
    weights: str = ""


@dataclass(frozen=True)
class Packed:
    """An opened quantized source. weights: by tensor name, as far as headers tell.  floats: the tensors that
    belong to none of them.
    """

    checkpoint: Checkpoint
    model: Architecture
    reader: Reader
    weights: Mapping[str, WeightSpec]
    floats: tuple[str, ...]


def is_packed(directory: Path) -> bool:
    """Whether a checkpoint's config.json says that its weights are quantized; False for one without any."""
    path = directory / CONFIG_FILE
    return path.is_file() and read_object(path).get(QUANTIZATION) is not None


def open_packed(directory: Path) -> Packed:
    """Opens a directory of quantized weights.

    Raises IntakeError for a layout that is not read and for tensors that do not fit config.json.
    """
    checkpoint, where = Checkpoint.open(directory), str(directory / CONFIG_FILE)
    check_config(checkpoint.config, where)
    reader = open_reader(checkpoint.config, where)
    tensors = checkpoint.tensors
    modules = dict.fromkeys(
        name.removesuffix(f".{marker}")
        for name in tensors.names()
        for marker in reader.markers
        if name.endswith(f".{marker}")
    )
    owned = {f"{module}.{suffix}" for module in modules for suffix in reader.suffixes}
    floats = [name for name in tensors.names() if name not in owned]
    names = (*floats, *(f"{module}{WEIGHT}" for module in modules))
    model = architecture(checkpoint.config, where, names)
    shapes = {linear.name: linear for linear in model.linears}
    weights: dict[str, WeightSpec] = {}
    stored = {name: tensors.info(name) for name in floats}
    for module in modules:
        name = f"{module}{WEIGHT}"
        linear = shapes.get(name)
        if linear is None:
            raise IntakeError(
                f"{name} is packed, but it is not a linear map of a {model.model_type} network",
                where=str(directory),
                fix="check that config.json and the weights are of the same model",
            )
        parts = {
            suffix: tensors.info(f"{module}.{suffix}")
            for suffix in reader.suffixes
            if f"{module}.{suffix}" in tensors
        }
        with located(directory):
            spec = reader.spec(module, (linear.out_features, linear.in_features), parts)
        weights[name] = replace(spec, stored_in_out=linear.stored_in_out)
        shape = spec.shape[::-1] if linear.stored_in_out else spec.shape
        any_part = next(iter(parts.values()))
        stored[name] = TensorInfo(name, "F32", shape, any_part.file, any_part.start, any_part.stop)
    if not weights:
        raise IntakeError(
            f"{QUANTIZATION}: says {reader.method}, but no weight is packed as that", where=str(directory)
        )
    check_tensors(TensorSource.of_headers(stored), model, str(directory))
    return Packed(checkpoint, model, reader, weights, tuple(floats))


@contextlib.contextmanager
def located(directory: Path) -> Iterator[None]:
    """Gives an IntakeError from inside the place that it lacks: which checkpoint it is about."""
    try:
        yield
    except IntakeError as error:
        raise IntakeError(error.what, where=error.where or str(directory), fix=error.fix) from None


def inspect_packed(directory: Path) -> PackedFacts:
    """Checks a directory of quantized weights and says what it is; raises IntakeError as
    :func:`~.intake.inspect_source` does, and as :func:`open_packed`.
    """
    files = source_files(directory)
    packed = open_packed(directory)
    model, tensors = packed.model, packed.checkpoint.tensors
    check_tokenizer(directory, model.vocabulary)
    expected = expected_tensors(model)
    floats = [tensors.info(name) for name in expected if name not in packed.weights]
    return PackedFacts(
        architecture=class_name(packed.checkpoint.config),
        model_type=model.model_type,
        task=model.task,
        parameters=sum(spec.parameters for spec in packed.weights.values())
        + sum(info.count for info in floats),
        weight_bytes=weight_bytes(files, tensors),
        dtype=main_dtype(floats),
        layers=len(model.layers),
        hidden=model.hidden,
        vocabulary=model.vocabulary,
        context=model.context,
        tied=model.tied,
        source=describe_source(directory),
        layout=packed.reader.method,
        weights=_most((spec.format.width, spec.parameters) for spec in packed.weights.values()),
    )


def _most(counted: Iterable[tuple[str, int]]) -> str:
    """The kind of which there is most."""
    counts: dict[str, int] = {}
    for kind, count in counted:
        counts[kind] = counts.get(kind, 0) + count
    return max(counts, key=counts.__getitem__)
