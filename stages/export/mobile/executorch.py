"""`export.executorch`: a checkpoint, quantized or not, as an ExecuTorch program through XNNPACK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....artifacts.errors import InputError
from ....artifacts.schema import param
from ...base import Context, Result, stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...model.families import Architecture
    from ...model.quantized import WeightSpec

PROGRAM_FILE = "model.pte"
SESSION_FILE = "ingot.json"
# Longer prompts than most phones' memory has room for are asked for by name.
MOST_TOKENS = 2048
# XNNPACK's kernels of 4-bit weights take groups of whole vectors.
GROUP_STEP = 32


@dataclass(frozen=True)
class ExecutorchParams:
    """Parameters of `export.executorch`."""

    cache_tokens: int = param(
        0,
        minimum=0,
        doc="tokens that keys and values are kept for, which is memory from the start; 0 is the model's "
        f"context, at most {MOST_TOKENS}",
    )


def accepts(_params: ExecutorchParams, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
    """Raises InputError for weights that XNNPACK has no kernel for, from headers alone."""
    products = {linear.name for linear in model.linears} | ({model.embedding} if model.tied else set())
    for name, spec in weights.items():
        if name in products:
            check_kernel(name, spec)


def check_kernel(name: str, spec: WeightSpec) -> None:
    """Raises InputError unless XNNPACK multiplies by such codes: 4 bits in groups or rows, or 8 bits in rows,
    all about zero, with activations whose int8 scales it finds a token.
    """
    form, columns = spec.format, spec.shape[1]
    fix = None
    if form.numeric != "int" or form.bits not in (4, 8):
        fix = "quantize to 4 or 8 bits"
    elif not form.sym:
        fix = "set quantize.sym: true"
    elif form.activation == "static":
        fix = "use quantize.dynamic, rtn or gptq: it finds scales of activations by itself"
    elif form.bits == 8 and form.group_size:
        fix = "8 bits take one scale a row: set quantize.head_group_size: 0 for the head, or bits: 4"
    elif form.group_size % GROUP_STEP or (form.group_size and columns % form.group_size):
        fix = f"set quantize.group_size to a multiple of {GROUP_STEP} that divides {columns}, or to 0"
    if fix:
        what = f"{form.width}{'' if form.sym else ' with zero points'} in groups of {form.group_size}"
        raise InputError(f"{name}: XNNPACK has no kernel for {what}, {form.activation} activations", fix=fix)


@stage(
    "export.executorch",
    params=ExecutorchParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    output="executorch",
    version=1,
    determinism="nondeterministic",
    tools=("executorch", "numpy", "torch", "torchao"),
    summary="An ExecuTorch program through XNNPACK: float32, int8 or int4 weights, with a static cache",
    accepts=accepts,
    takes_compact=True,
)
def run(context: Context[ExecutorchParams]) -> Result:
    """Writes model.pte, the tokenizer, the configs and `ingot.json`.

    A language model is one method for prompt and decoding: ids int64 [1, tokens] and their positions int64
    [tokens] → logits float32 [1, tokens, vocabulary]; keys and values stay in the program. An encoder takes
    ids alone and gives hidden states. Codes and scales of quantized weights are the checkpoint's; XNNPACK
    keeps the scales of groups in bfloat16. Raises InputError for weights and networks without kernels.
    """
    from ...model.checkpoint import Checkpoint
    from ...model.quantized import QuantizedCheckpoint
    from ..session import about_json
    from .lower import lower
    from .network import Network
    from .weights import Weights
    from .xnnpack import dynamic_linear

    source = context.inputs["model"]
    quantized = QuantizedCheckpoint.open(source.path) if source.kind == "quantized-checkpoint" else None
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(source.path)
    model = checkpoint.architecture
    if quantized:
        accepts(context.params, quantized.quantized, model)
    weights = Weights(checkpoint, quantized, dynamic_linear)
    length = min(context.params.cache_tokens or MOST_TOKENS, model.context)
    cached = model.task == "causal-lm"
    network = Network(
        model, weights.read, weights.linear, weights.embedding(model), length=length, cached=cached
    )
    widths = weights.account(model)
    context.progress(0, 1, "lowering the network to XNNPACK, which takes a while")
    lowered = lower(network.eval(), length, dynamic=bool(weights.products))
    if weights.products > lowered.products:
        raise InputError(
            f"XNNPACK took {lowered.products} of {weights.products} quantized maps, and the rest would run "
            "in float32",
            fix="report the model's type and shapes",
        )
    with context.output.create(PROGRAM_FILE) as sink:
        lowered.write(sink)
    checkpoint.copy_sidecars(context.output)
    about = about_json(model, "executorch", length, source.path)
    context.output.write_json(
        SESSION_FILE,
        {**about, "file": PROGRAM_FILE, "past": None, "requires": {"executorch": f">={lowered.version}"}},
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
            "bytes_by_part": dict(lowered.bytes_by_part),
            "delegates": lowered.delegates,
            "requires": {"executorch": f">={lowered.version}"},
        }
    )
