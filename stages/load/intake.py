"""Intake: what a source is, and whether it may be loaded, from its headers and JSON files alone.

It runs while planning, so it imports neither numpy nor a framework. NaN and infinite weights are found later,
by the `load` stage, while their bytes pass by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ..model.checkpoint import CONFIG_FILE, PICKLED, SAFETENSORS, Checkpoint
from ..model.dtypes import main_dtype
from ..model.families.compact import Compact
from ..model.tokenizer import check_tokenizer
from ..model.weights import check_weights, network_tensors
from .files import source_files, weight_layout
from .origin import describe_source

if TYPE_CHECKING:
    from pathlib import Path

    from ...artifacts.tensors import TensorSource

# Of the facts, what is not said by the files alone.
ABOUT = ("known_family", "is_compact", "source")
# The key of config.json under which other programs say how they quantized the weights.
QUANTIZATION = "quantization_config"


@dataclass(frozen=True)
class SourceFacts:
    """What is known of a source checkpoint.

    architecture: transformers' class.  task: causal-lm, encoder or seq2seq-lm.  parameters: of the network, a
    tied head counted once.  weight_bytes: of the safetensors files.  dtype: of most parameters.  layers: of
    an encoder-decoder, those of its decoder.  context: the longest sequence, in tokens.  known_family: the
    table of families holds it, so that it can be quantized.  is_compact: some of its layers are factored or
    shared, as config.json says.  source: uri, and revision and license where they
    are known; it says where the files were found, so it is no part of what they are, and neither is what
    Ingot knows of them.
    """

    architecture: str
    model_type: str
    task: str
    parameters: int
    weight_bytes: int
    dtype: str
    layers: int
    hidden: int
    vocabulary: int
    context: int
    tied: bool
    known_family: bool = True
    is_compact: bool = False
    source: Mapping[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, object]:
        """What the files alone say, whatever directory they are in: the facts of the loaded artifact."""
        return {name: value for name, value in asdict(self).items() if name not in ABOUT}


def inspect_source(directory: Path, *, allow_pickle: bool = False) -> SourceFacts:
    """Checks a checkpoint directory and says what it is.

    allow_pickle: weights may be pickled, when there are no others; they are described from their headers,
    without unpickling anything, and weight_bytes is what they will be as safetensors, headers apart. Raises
    IntakeError when the directory, its config, its weights or its tokenizer is missing or malformed; for
    pickled weights, custom code, an architecture that transformers does not have either, weights that are
    quantized or do not fit the config, a tokenizer with more tokens than the vocabulary or a pattern without
    end, and symlinks that leave the source.
    """
    files = source_files(directory, allow_pickle=allow_pickle)
    checkpoint = open_source(directory, allow_pickle=allow_pickle)
    where = str(directory / CONFIG_FILE)
    check_config(checkpoint.config, where)
    check_unquantized(checkpoint.config, where)
    model = checkpoint.outline
    check_weights(checkpoint, str(directory))
    tensors = network_tensors(checkpoint)
    check_tokenizer(directory, model.vocabulary)
    return SourceFacts(
        architecture=class_name(checkpoint.config),
        model_type=model.model_type,
        task=model.task,
        parameters=sum(checkpoint.tensors.info(name).count for name in tensors),
        weight_bytes=weight_bytes(files, checkpoint.tensors),
        dtype=main_dtype(checkpoint.tensors.info(name) for name in tensors),
        layers=model.layers,
        hidden=model.hidden,
        vocabulary=model.vocabulary,
        context=model.context,
        tied=model.tied,
        known_family=model.is_known,
        is_compact=bool(Compact.of(checkpoint.config, where)),
        source=describe_source(directory),
    )


def open_source(directory: Path, *, allow_pickle: bool) -> Checkpoint:
    """A source's config and the headers of its weights, which for pickles is all that can be read of them."""
    if weight_layout(directory, allow_pickle=allow_pickle) is PICKLED:
        from .pickled import open_pickled

        return open_pickled(directory)
    return Checkpoint.open(directory)


def weight_bytes(files: Mapping[str, Path], tensors: TensorSource) -> int:
    """The bytes of the safetensors files; of pickled weights, those of their tensors."""
    sizes = [path.stat().st_size for path in files.values() if path.suffix == SAFETENSORS.suffix]
    return sum(sizes) if sizes else sum(tensors.info(name).nbytes for name in tensors.names())


def check_config(config: Mapping[str, object], where: str) -> None:
    """Raises IntakeError for a model that needs its own code."""
    if "auto_map" in config:
        raise IntakeError(
            "auto_map: the model needs code of its own, which is never run",
            where=where,
            fix="save it as an architecture of transformers itself, without auto_map",
        )


def check_unquantized(config: Mapping[str, object], where: str) -> None:
    """Raises IntakeError for a model that is quantized already."""
    quantization = config.get(QUANTIZATION)
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise IntakeError(
            f"{QUANTIZATION}: the weights are quantized already ({method or 'unknown method'})",
            where=where,
            fix="start from the unquantized checkpoint, or load it as it is with stage: load.quantized",
        )


def class_name(config: Mapping[str, object]) -> str:
    """The class in transformers that the config names, or its model_type where it names none."""
    classes = config.get("architectures")
    return str(classes[0] if isinstance(classes, list) and classes else config["model_type"])
