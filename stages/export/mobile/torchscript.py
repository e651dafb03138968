"""`export.torchscript_mobile`: a network for the lite interpreter of older apps, traced and frozen."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import DataError, InputError, StageError
from ....artifacts.schema import param
from ...base import Context, Result, stage
from ...model.calibration.calibrate import OptionalTextParams

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from ...model.checkpoint import Checkpoint
    from ...model.families import Architecture
    from ...model.quantized import QuantizedWeight, WeightSpec

PROGRAM_FILE = "model.ptl"
SESSION_FILE = "ingot.json"
# QNNPACK's, and the engine that a file's packed weights are of.
ENGINE = "qnnpack"
TRACED_TOKENS = 7


@dataclass(frozen=True)
class TorchscriptParams(OptionalTextParams):
    """Parameters of `export.torchscript_mobile`; weights with static activations alone need the text."""

    max_tokens: int = param(
        0, minimum=0, doc="the longest sequence, for which rotations are stored; 0 is the model's context"
    )


def accepts(params: TorchscriptParams, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
    """Raises InputError for weights that QNNPACK has no kernel for, from headers alone."""
    products = {linear.name for linear in model.linears} | ({model.embedding} if model.tied else set())
    for name, spec in weights.items():
        form = spec.format
        is_taken = form.numeric == "int" and form.bits == 8 and not form.group_size and form.sym
        if name in products and not (is_taken and form.activation in ("dynamic", "none", "static")):
            raise InputError(
                f"{name}: QNNPACK has no kernel for {form.width} in groups of {form.group_size}, "
                f"{form.activation} activations",
                fix="use quantize.dynamic or static: 8 bits with one scale a row; export.executorch takes 4",
            )
        if name in products and form.activation == "static" and params.calibration is None:
            raise DataError(
                f"{name} has static activations, and QNNPACK rounds what such a map gives to a range too",
                fix="name a calibration text: data.calibration, or export.calibration",
            )


@stage(
    "export.torchscript_mobile",
    params=TorchscriptParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    output="torchscript",
    version=1,
    determinism="nondeterministic",
    tools=("numpy", "torch"),
    summary="A traced and frozen network for the lite interpreter (.ptl): float32, or int8 by QNNPACK",
    accepts=accepts,
    takes_compact=True,
)
def run(context: Context[TorchscriptParams]) -> Result:
    """Writes model.ptl, the tokenizer, the configs and `ingot.json`.

    The program takes ids int64 [1, tokens] and gives logits or hidden states float32 [1, tokens, width]; it
    keeps no past. Codes and scales are the checkpoint's; the outputs of maps with static activations, which
    QNNPACK rounds, take the ranges that they reach on the calibration text, save the head's, whose inputs
    are rounded to a scale a call instead, so that logits stay in float32. What `optimize_for_mobile` says is
    noted where it fails, as it does in builds of torch without XNNPACK. Raises StageError for what cannot be
    traced, and DataError for a text that cannot be used.
    """
    from ...model.checkpoint import Checkpoint
    from ...model.quantized import QuantizedCheckpoint
    from ..session import about_json
    from .network import Network
    from .static import StaticLinear, settle
    from .weights import Weights

    source = context.inputs["model"]
    quantized = QuantizedCheckpoint.open(source.path) if source.kind == "quantized-checkpoint" else None
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(source.path)
    model = checkpoint.architecture
    if quantized:
        accepts(context.params, quantized.quantized, model)
    length = min(context.params.max_tokens or model.context, model.context)
    heads = {each.name for each in (model.head,) if each} | ({model.embedding} if model.tied else set())

    def product(weight: QuantizedWeight, bias: torch.Tensor | None) -> torch.nn.Module:
        is_static = weight.spec.format.activation == "static" and weight.name not in heads
        return StaticLinear(weight, bias) if is_static else dynamic_linear(weight, bias)

    with engine():
        weights = Weights(checkpoint, quantized, product)
        network = Network(
            model, weights.read, weights.linear, weights.embedding(model), length=length, cached=False
        )
        widths = weights.account(model)
        if any(isinstance(module, StaticLinear) for module in network.modules()):
            settle(network.eval(), _text(context, checkpoint, length), context.progress)
        context.progress(0, 1, "tracing the network")
        program, reason = traced(network.eval(), min(TRACED_TOKENS, length))
        if reason:
            context.note(
                f"optimize_for_mobile does not work in this torch, so the program is only frozen: {reason}"
            )
        data = program._save_to_buffer_for_lite_interpreter()  # noqa: SLF001 - its only name
    with context.output.create(PROGRAM_FILE) as sink:
        sink.write(data)
    checkpoint.copy_sidecars(context.output)
    about = about_json(model, "torchscript", length, source.path)
    context.output.write_json(
        SESSION_FILE, {**about, "file": PROGRAM_FILE, "past": None, "requires": {"torch": ">=1.9"}}
    )
    checkpoint.tensors.close()
    return Result(
        facts={
            **source.facts,
            "task": model.task,
            "model_type": model.model_type,
            "parameters": sum(entry["parameters"] for entry in widths.values()),
            "weights_by_width": widths,
            "context": length,
            "model_files": [PROGRAM_FILE],
            "optimized_for_mobile": not reason,
            "requires": {"torch": ">=1.9"},
        }
    )


def dynamic_linear(weight: QuantizedWeight, bias: torch.Tensor | None) -> Any:
    """A linear map with the codes of a weight [out, in], and int8 activations with one scale a call."""
    from torch.ao.nn.quantized.dynamic import Linear

    from .static import packed_codes

    out_features, in_features = weight.spec.shape
    module = Linear(in_features, out_features, bias_=bias is not None)  # type: ignore[no-untyped-call]
    module.set_weight_bias(packed_codes(weight), bias)
    return module


def _text(context: Context[TorchscriptParams], checkpoint: Checkpoint, length: int) -> list[torch.Tensor]:
    """The calibration text as ids [windows, tokens]; raises DataError for one that cannot be used."""
    from ...model.calibration.samples import take

    params, model = context.params, checkpoint.architecture
    text, window = Path(str(params.calibration)), min(params.window, length)
    found = take(text, checkpoint.directory, model, window, params.samples)
    return [batch.ids for batch in found.batches]


def traced(network: Any, tokens: int) -> tuple[Any, str]:
    """The network traced with some tokens and frozen, and why it is not optimized for mobile."""
    import torch
    from torch.utils.mobile_optimizer import optimize_for_mobile

    # More than one token: shapes of 1 would be taken as fixed.
    ids = torch.arange(tokens, dtype=torch.int64)[None]
    try:
        with torch.no_grad():
            program = torch.jit.trace(network, (ids,), check_trace=False)  # type: ignore[no-untyped-call]
            program = torch.jit.freeze(program)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError(f"{network.model.model_type} cannot be traced: {reason}") from error
    try:
        return optimize_for_mobile(program), ""
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0]
        return program, said.partition(". ")[2] or said


@contextlib.contextmanager
def engine() -> Iterator[None]:
    """Computes with QNNPACK, and keeps back that TorchScript is deprecated: who asks for it knows."""
    import torch

    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.quantized.engine = before
