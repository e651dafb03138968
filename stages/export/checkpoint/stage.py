"""`export.checkpoint`: a checkpoint, quantized or not, as the directory that transformers and vLLM load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import InputError
from ....artifacts.schema import param
from ...base import Context, Result, stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from ....artifacts.tensors import TensorSource
    from ...model.checkpoint import Checkpoint
    from ...model.families import Architecture
    from ...model.packed import Layout, Part
    from ...model.quantized import QuantizedCheckpoint, QuantizedWeight, WeightSpec
    from .shards import Entry

COMPRESSED, GPTQ, AWQ, BITSANDBYTES = "compressed-tensors", "gptq", "awq", "bitsandbytes"
AUTO = "auto"


@dataclass(frozen=True)
class CheckpointParams:
    """Parameters of `export.checkpoint`."""

    layout: str = param(
        COMPRESSED,
        choices=(COMPRESSED, GPTQ, AWQ, BITSANDBYTES),
        doc="how quantized weights are stored: compressed-tensors holds integers of 2, 3, 4 and 8 bits, int8 "
        "and fp8 with activations, and several widths side by side; gptq integers, also GPT-2's; awq 4 bits; "
        "bitsandbytes nf4. compressed-tensors, since it holds most, and vLLM and transformers read it. No "
        "layout changes a code, and one that cannot hold a weight is refused",
    )
    checkpoint_format: str = param(
        AUTO,
        choices=(AUTO, "gptq", "gptq_v2"),
        doc="version of the gptq layout: gptq stores zero points less one, so it has none of 0, and every "
        "program reads it; gptq_v2 stores them as they are; auto is gptq where all weights are symmetric, "
        "else gptq_v2",
    )
    scale_dtype: str = param(
        AUTO,
        choices=(AUTO, "float32", "float16", "bfloat16"),
        doc="dtype of the scales; auto keeps float32 in compressed-tensors, and is float16 in gptq and awq, "
        "whose kernels hold that; what the rounding of scales costs at most is noted",
    )
    max_shard_bytes: int = param(
        5_000_000_000,
        minimum=1,
        doc="bytes of a file of weights, above which they are split; 5 GB, as hubs and file systems like it",
    )


def layout_of(params: CheckpointParams, weights: Mapping[str, WeightSpec], dtype: str) -> Layout:
    """The layout that the parameters ask for. dtype: of the checkpoint, which bitsandbytes computes in.

    Raises InputError for a parameter that the layout does not have.
    """
    from ...model.packed import AwqLayout, BitsandbytesLayout, CompressedLayout, GptqLayout

    if params.checkpoint_format != AUTO and params.layout != GPTQ:
        what = f"export.checkpoint_format: the {params.layout} layout has no versions"
        raise InputError(what, fix="take it out, or set export.layout: gptq")
    half = "float16" if params.layout in (GPTQ, AWQ) else "float32"
    scale_dtype = half if params.scale_dtype == AUTO else params.scale_dtype
    if params.layout == BITSANDBYTES:
        if params.scale_dtype not in (AUTO, "float32"):
            what = f"export.scale_dtype: the bitsandbytes layout has no scales in {params.scale_dtype}"
            raise InputError(what, fix="take it out")
        return BitsandbytesLayout(dtype)
    if params.layout == GPTQ:
        return GptqLayout(scale_dtype, params.checkpoint_format).of(weights)
    return AwqLayout(scale_dtype) if params.layout == AWQ else CompressedLayout(scale_dtype)


def accepts(params: CheckpointParams, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
    """Raises InputError for weights that the layout cannot hold, from headers alone."""
    layout_of(params, weights, "float32").check(weights, model)


@stage(
    "export.checkpoint",
    params=CheckpointParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    output="packed-checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="A Hugging Face directory, weights packed as compressed-tensors, GPTQ, AWQ or bitsandbytes do",
    accepts=accepts,
)
def run(context: Context[CheckpointParams]) -> Result:
    """Writes the files beside the weights as they are, config.json with what a loader must know of the
    weights, and the weights, packed tensor by tensor; where TensorRT-LLM has a name for them, its
    hf_quant_config.json too.

    Raises InputError for weights that the layout cannot hold, and CorruptError for codes and zero points that
    contradict their record.
    """
    from ...model.checkpoint import Checkpoint
    from ...model.quantized import QuantizedCheckpoint
    from .shards import split, write
    from .trtllm import TRTLLM_FILE, trtllm_config

    source = context.inputs["model"]
    quantized = QuantizedCheckpoint.open(source.path) if source.kind == "quantized-checkpoint" else None
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(source.path)
    facts, config = dict(source.facts), dict(checkpoint.config)
    layout = None
    if quantized is not None:
        dtype = str(facts.get("dtype", "float32"))
        layout = layout_of(context.params, quantized.quantized, dtype)
        layout.check(quantized.quantized, checkpoint.architecture)
        config["quantization_config"] = layout.config(quantized.quantized, _left(quantized))
        described = trtllm_config(quantized.quantized, _left(quantized))
        if described and context.params.layout == COMPRESSED:
            context.output.write_json(TRTLLM_FILE, described)
        facts |= {"layout": context.params.layout, **_checked_scales(context, quantized, layout)}
    files = split(_units(checkpoint, quantized, layout), context.params.max_shard_bytes)
    checkpoint.copy_sidecars(context.output, config)
    total, done = sum(entry.shape.nbytes for entries in files for entry in entries), 0

    def advance(count: int, name: str) -> None:
        nonlocal done
        done += count
        context.progress(done, total, name)

    names = write(files, context.output, advance)
    return Result({**facts, "weight_files": len(names), "packed_bytes": total})


def _units(
    checkpoint: Checkpoint, quantized: QuantizedCheckpoint | None, layout: Layout | None
) -> Iterator[list[Entry]]:
    """The tensors to write, those of one weight together, in the order of the checkpoint."""
    from .shards import Entry

    tensors = checkpoint.tensors
    first = {f"{name}.codes": name for name in quantized.quantized} if quantized else {}
    floats = set(quantized.float_names()) if quantized else set(tensors.names())
    for stored in tensors.names():
        if stored in floats:
            yield [Entry(tensors.info(stored), partial(tensors.raw, stored))]
        elif stored in first and quantized is not None and layout is not None:
            weight = quantized.weight(first[stored])
            parts = layout.parts(weight.name, weight.spec)
            yield [Entry(part.shape, partial(_packed, part, weight, tensors)) for part in parts]


def _packed(part: Part, weight: QuantizedWeight, tensors: TensorSource) -> npt.NDArray[Any]:
    """A part's elements; the pages of the codes that they came from are given back."""
    made = part.make(weight)
    tensors.release(f"{weight.name}.codes")
    return made


def _left(quantized: QuantizedCheckpoint) -> Sequence[str]:
    """The modules whose weights stay in floating point, by which loaders tell them from those that do not."""
    from ...model.packed import module_of

    model, tensors = quantized.checkpoint.architecture, quantized.checkpoint.tensors
    tables = {
        table
        for half in (model, model.encoder)
        if half is not None
        for table in (*half.embeddings, half.position_embedding, half.token_type_embedding)
    }
    found = {
        module_of(name)
        for name in quantized.float_names()
        if len(tensors.info(name).shape) == 2 and name.endswith(".weight") and name not in tables
    }
    return sorted(found | ({"lm_head"} if model.tied else set()))


def _checked_scales(
    context: Context[CheckpointParams], quantized: QuantizedCheckpoint, layout: Layout
) -> dict[str, object]:
    """What the scales are stored as, and the largest share by which that changes one of them.

    Nothing is written before all weights have been found to be what their record says.
    """
    from ...model.packed.base import check_codes
    from ...model.packed.scales import cast_error

    worst = 0.0
    for done, name in enumerate(quantized.quantized):
        context.progress(done, len(quantized.quantized), f"checking {name}")
        weight = quantized.weight(name)
        check_codes(weight)
        worst = max(worst, cast_error(weight.scales, layout.scale_dtype))
        quantized.checkpoint.tensors.release(f"{name}.codes")
    if worst:
        context.note(
            f"scales were rounded to {layout.scale_dtype}, which changed each by {worst:.2g} of it at most"
        )
    return {"scale_dtype": layout.scale_dtype, "scale_cast_error": worst}
