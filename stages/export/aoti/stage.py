"""`export.aoti_cuda`: a decoder as programs of torch, and as packages of AOTInductor where the GPU is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....artifacts.errors import InputError
from ....artifacts.schema import param
from ....targets.gpu import probe
from ...base import Context, Result, stage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...model.families import Architecture
    from ...model.quantized import WeightSpec

SESSION_FILE = "ingot.json"
SCHEMA = "ingot/session/v1"
# The oldest torch whose packages take weights as inputs in dynamic batches.
TORCH = ">=2.9"


@dataclass(frozen=True)
class AotiParams:
    """Parameters of `export.aoti_cuda`."""

    dtype: str = param(
        "bfloat16",
        choices=("float32", "float16", "bfloat16"),
        doc="element type of products; bfloat16 has the range of float32, so no activation overflows",
    )
    max_length: int = param(
        2048, minimum=2, doc="tokens of a sequence that the caches hold, at most the context; 2048 are chats"
    )
    attention: str = param(
        "auto",
        choices=("auto", "flash", "efficient"),
        doc="kernel of prompts' attention; auto lets torch choose the fastest that takes the shapes",
    )
    tf32: bool = param(
        False,
        doc="float32 products in TF32, ten bits of mantissa; off, since float32 is asked for to be exact",
    )
    cuda_graphs: bool = param(
        True,
        doc="a step, and a prompt of a length that comes again, are launched as one CUDA graph each; "
        "without, launches of small kernels bound their speed",
    )
    engine: str = param(
        "aoti",
        choices=("aoti", "compile", "eager"),
        doc="what runs the programs: a package of AOTInductor, torch.compile at every start, or no compiler",
    )
    device: str = param(
        "cuda", choices=("cuda", "cpu"), doc="what the programs run on; cpu is for trying them without a GPU"
    )


def accepts(_params: AotiParams, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
    """Raises InputError for codes that these programs do not compute with, and networks that they are not."""
    for name, spec in weights.items():
        form = spec.format
        if form.numeric != "int" or form.activation != "none":
            what = form.numeric if form.numeric != "int" else f"{form.activation} activations"
            raise InputError(
                f"export.aoti_cuda takes integer codes of weights alone, and {name} has {what}",
                fix="quantize with rtn, gptq or awq, which keep activations in floating point",
            )
    check_network(model, 0)


def check_network(model: Architecture, longest: int) -> None:
    """Raises InputError for a network that the programs do not compute."""
    kinds = {
        "an encoder or an encoder-decoder": model.task != "causal-lm",
        "a mixture of experts": any(hasattr(layer.feed_forward, "experts") for layer in model.layers),
        "a network with biases by distance": model.relative_bias is not None,
        "a network whose rotations change in long contexts": any(
            rope is not None
            and rope.kind == "longrope"
            and longest > (rope.scaling or {})["original_max_position_embeddings"]
            for rope in (model.rope, *(layer.attention.rope for layer in model.layers))
        ),
    }
    found = next((kind for kind, applies in kinds.items() if applies), None)
    if found is not None:
        raise InputError(
            f"export.aoti_cuda does not take {found} ({model.model_type})",
            fix="export it with another method, such as onnx, or lower max_length to the original context",
        )


def session_json(model: Architecture, params: AotiParams, longest: int, directory: Path) -> dict[str, object]:
    """The content of `ingot.json`. longest: tokens of the caches.  directory: of the configs, which name the
    special tokens.
    """
    from ..session import about_json

    return {
        **about_json(model, "aoti", longest, directory),
        "dtype": params.dtype,
        "device": params.device,
        "engine": params.engine,
        "attention": params.attention,
        "tf32": params.tf32,
        "cuda_graphs": params.cuda_graphs,
        "requires": {"torch": TORCH},
    }


def versions(params: AotiParams) -> Mapping[str, str | None]:
    """The GPU that packages are compiled for, which they depend on."""
    if params.device != "cuda" or params.engine != "aoti":
        return {}
    return {"gpu": ", ".join(sorted({f"sm{each.sm}" for each in probe()})) or None}


@stage(
    "export.aoti_cuda",
    params=AotiParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    output="aoti",
    version=2,
    determinism="nondeterministic",
    tools=("numpy", "safetensors", "torch"),
    summary="Programs of torch.export with a static cache, and packages of AOTInductor for the GPU at hand",
    accepts=accepts,
    versions=versions,
)
def run(context: Context[AotiParams]) -> Result:
    """Writes the weights once, the programs that take them, the tokenizer, the configs and `ingot.json`.

    On a machine without the device, the packages are left to the one that runs them: a note says so. Raises
    InputError for a network or codes that the programs do not compute.
    """
    from ....targets.runtimes.program import PROGRAMS, WEIGHTS_FILE, compile_packages, cuda_needs
    from ...model.checkpoint import Checkpoint
    from ...model.quantized import QuantizedCheckpoint
    from .packing import Weights
    from .programs import save, trace, write_weights

    params, source = context.params, context.inputs["model"]
    quantized = QuantizedCheckpoint.open(source.path) if source.kind == "quantized-checkpoint" else None
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(source.path)
    model = checkpoint.architecture
    longest = min(params.max_length, model.context)
    accepts(params, quantized.quantized if quantized else {}, model)
    check_network(model, longest)
    about = session_json(model, params, longest, source.path)
    weights = Weights(checkpoint, quantized, model, params.dtype, longest)
    packed, entries, network = weights.packed, weights.entries(), weights.joined.model
    with context.output.create(WEIGHTS_FILE) as stream:
        write_weights(entries, stream, context.progress)
    # Programs are traced from shapes and types alone.
    given = {entry.shape.name: entry.blank() for entry in entries}
    for number, name in enumerate(PROGRAMS):
        context.progress(number, len(PROGRAMS), "programs traced")
        save(trace(network, about, packed, given, name), context.output.payload / f"{name}.pt2")
    del given
    checkpoint.copy_sidecars(context.output)
    context.output.write_json(SESSION_FILE, about)
    checkpoint.tensors.close()
    missing = [name for name, met, _ in cuda_needs() if not met] if params.device == "cuda" else []
    if params.engine == "aoti" and missing:
        context.note(
            f"no package of AOTInductor is here, for want of {missing[0]}: `ingot validate` compiles the "
            "programs on the machine that runs them"
        )
    elif params.engine == "aoti":
        context.progress(0, 1, "packages compiled")
        compile_packages(context.output.payload, about, params.device, context.output.payload / "compiled")
    return Result(
        facts={
            **source.facts,
            "task": model.task,
            "model_type": model.model_type,
            "dtype": params.dtype,
            "engine": params.engine,
            "requires": {"torch": TORCH},
        }
    )
