"""`load.quantized`: a checkpoint that another program quantized enters the store, every code as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.checkpoint import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Checkpoint
from ..model.quantized import RECORD_FILE, WeightSpec, record_json, weights_by_width
from ..model.templates import check_templates
from ..model.tokenizer import check_readable
from ..model.weights import expected_tensors
from .files import source_files
from .hub import resolve
from .intake import QUANTIZATION
from .packed import WEIGHT, Packed, inspect_packed, located, open_packed
from .stage import TIED_HEAD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model.quantized import QuantizedWeight


@dataclass(frozen=True)
class LoadQuantizedParams:
    """Which checkpoint is loaded."""

    model: str = param(
        doc="a directory with config.json, tokenizer.json and safetensors in the layout of GPTQ, AWQ, "
        "compressed-tensors or bitsandbytes (nf4), or org/name@revision on the hub",
        in_key=False,
    )


def files_read(params: LoadQuantizedParams) -> Mapping[str, Path]:
    """The files whose content decides the output; what the directory is called does not."""
    return source_files(resolve(params.model))


@stage(
    "load.quantized",
    params=LoadQuantizedParams,
    inputs={},
    output="quantized-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="Checks a checkpoint that GPTQ, AWQ or others quantized, and takes its codes as they are",
    reads=files_read,
)
def run(context: Context[LoadQuantizedParams]) -> Result:
    """Intake, then the weights, unpacked one by one; everything else is copied.

    config.json loses its `quantization_config`: what it said is in `quantization.json`. Raises IntakeError
    for whatever is wrong with the checkpoint, and for what the quantized form cannot say: groups that are not
    consecutive input features.
    """
    directory = resolve(context.params.model)
    facts = inspect_packed(directory)
    packed = open_packed(directory)
    for name, path in source_files(directory).items():
        if path.suffix != ".safetensors" and name not in (CONFIG_FILE, "model.safetensors.index.json"):
            context.output.copy_in(path, name)
    config = {key: value for key, value in packed.checkpoint.config.items() if key != QUANTIZATION}
    context.output.write_json(CONFIG_FILE, config)
    weights = _write(context, packed)
    context.output.write_json(RECORD_FILE, record_json(facts.layout, weights))
    payload = context.output.payload
    _check_floats(payload, packed, directory)
    check_templates(payload, directory)
    check_readable(payload / TOKENIZER_FILE, directory / TOKENIZER_FILE)
    bits = sum(spec.payload_bits for spec in weights.values())
    return Result(
        {
            **facts.identity(),
            "method": facts.layout,
            "weights_by_width": weights_by_width(weights, _floats(packed)),
            "bits_per_weight": round(bits / sum(spec.parameters for spec in weights.values()), 4),
        },
        observed={"source": dict(facts.source)},
    )


def _write(context: Context[LoadQuantizedParams], packed: Packed) -> dict[str, WeightSpec]:
    """Streams `model.safetensors`; gives how each weight is stored, as its data say."""
    import numpy as np

    from ...artifacts.tensors import SafetensorsWriter

    tensors = packed.checkpoint.tensors
    names = packed.floats
    layout = [tensors.info(name) for name in names]
    parts = [part for name, spec in packed.weights.items() for part in spec.layout(name)]
    total, found = len(names) + len(packed.weights), dict(packed.weights)
    with (
        context.output.create(WEIGHTS_FILE) as stream,
        SafetensorsWriter(stream, [*layout, *parts]) as writer,
    ):
        for done, name in enumerate(names):
            context.progress(done, total, name)
            writer.write(name, tensors.raw(name))
        for done, (name, spec) in enumerate(packed.weights.items()):
            context.progress(len(names) + done, total, name)
            module = name.removesuffix(WEIGHT)
            with located(packed.checkpoint.directory):
                weight = packed.reader.read(module, spec, tensors)
                _check(weight)
            found[name] = replace(weight.spec, stored_in_out=spec.stored_in_out)
            for part in spec.layout(name):
                writer.write(part.name, np.ascontiguousarray(getattr(weight, part.name.rpartition(".")[2])))
            for suffix in packed.reader.suffixes:
                if f"{module}.{suffix}" in tensors:
                    tensors.release(f"{module}.{suffix}")
    context.progress(total, total, "written")
    return found


def _check(weight: QuantizedWeight) -> None:
    """Raises IntakeError for scales that are not finite."""
    import numpy as np

    count = int(np.count_nonzero(~np.isfinite(weight.scales)))
    if count:
        raise IntakeError(
            f"{weight.name} has {count:,} NaN or infinite scales among {weight.scales.size:,}",
            fix="the checkpoint is broken: download it again, or ask who quantized it",
        )


def _check_floats(payload: Path, packed: Packed, source: Path) -> None:
    """Raises IntakeError for NaN or infinite weights in floating point, and for a tied head that is not the
    embedding; source: the directory, for messages.
    """
    from .finite import check_finite, check_tied

    copy = Checkpoint.open(payload).tensors
    for name in expected_tensors(packed.model):
        if name not in packed.weights:
            check_finite(copy.info(name), source / packed.checkpoint.tensors.info(name).file.name)
    for name in (*((TIED_HEAD,) if packed.model.tied else ()), *packed.model.copies):
        if name in copy:
            check_tied(copy.info(packed.model.embedding), copy.info(name), source)


def _floats(packed: Packed) -> dict[str, tuple[int, int]]:
    """How many tensors and parameters stay in each floating-point dtype."""
    found: dict[str, tuple[int, int]] = {}
    for name in packed.floats:
        info = packed.checkpoint.tensors.info(name)
        tensors, parameters = found.get(info.dtype.lower(), (0, 0))
        found[info.dtype.lower()] = (tensors + 1, parameters + info.count)
    return found
