"""`fuse.lora`: LoRA, rsLoRA and DoRA adapters folded into the weights that they change.

What an adapter adds is computed in float64 and rounded once, tensor by tensor, so neither the model nor a
delta is ever in memory as a whole. Several adapters add up as the changes that each makes alone, which mixing
their A and B by weight does not: it gives products of one adapter's A with another's B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError, RecipeError
from ...artifacts.schema import param
from ..base import Context, Expansion, Result, Source, stage
from ..model.dtypes import NAMES, STORED, main_dtype, with_dtype
from .adapter_list import Listed, read_list, written

if TYPE_CHECKING:
    from pathlib import Path

    from ...artifacts.tensors import TensorShape
    from ..model.checkpoint import Checkpoint
    from .lora_targets import Plan, Use
    from .low_rank import Measure

BASE = "base"
TIED_KEY = "tie_word_embeddings"
# Above this share of a change, rounding to the stored dtype is worth a remark.
NOTED_LOSS = 0.1
SHOWN_DIGITS = 4


@dataclass(frozen=True)
class LoraParams:
    """Parameters of `fuse.lora`."""

    adapters: tuple[Mapping[str, object] | str, ...] = param(
        doc="what is folded: a list of {adapter: DIRECTORY, weight: 1.0}, or of directories; instead of one "
        "also a node that makes an adapter, or org/name@revision; weight multiplies the change, 1 as trained",
    )
    rank: int | None = param(
        None,
        minimum=1,
        doc="rank that the sum of all pairs of a weight is cut to, by its singular values; by default the "
        "sum is exact",
    )
    dtype: str = param(
        BASE,
        choices=(BASE, *STORED),
        doc="of the weights written; base keeps that of each tensor, which for half precision rounds changes "
        "that are small beside a weight, and is float32 where codes were",
    )
    dequantize: bool = param(
        False,
        doc="fold into the weights that the codes of a quantized base stand for, which come out in floating "
        "point; off, since codes would round away what is added, and few mean to give them up",
    )


def expand(values: Mapping[str, object], _directory: Path, _node: str) -> Expansion:
    """The parameters with adapter1, adapter2 ... in place of what they name."""
    listed = read_list(values.get("adapters"))
    named = [Listed(f"adapter{number}", each.weight) for number, each in enumerate(listed, 1)]
    sources = {
        entry.adapter: Source(each.adapter, is_adapter=True, origin=f"adapters[{index}].adapter")
        for index, (entry, each) in enumerate(zip(named, listed, strict=True))
    }
    return Expansion({**values, "adapters": written(named)}, sources)


@stage(
    "fuse.lora",
    params=LoraParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    many={"adapter": ("adapter",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy",),
    summary="Fold LoRA, rsLoRA and DoRA adapters into a checkpoint: W + Σ weight · scale · B·A",
    any_architecture=True,
    expand=expand,
)
def run(context: Context[LoraParams]) -> Result:
    """Writes the checkpoint `model` with the adapters' changes; what no adapter changes stays bit for bit.

    Raises InputError for a quantized base that is not to be dequantized, and for adapters that do not fit
    it, as in :func:`.lora_targets.plan`; StageError where a result is not finite.
    """
    from ...artifacts.tensors import SafetensorsWriter
    from ..model.adapters import Adapter
    from ..model.checkpoint import WEIGHTS_FILE
    from .lora_fold import fold
    from .lora_targets import Use, plan

    params = context.params
    base, known = _base(context)
    uses = [
        Use(each.adapter, Adapter.open(_input(context, each.adapter)), each.weight)
        for each in read_list(params.adapters)
    ]
    if params.rank is not None:
        _require_pairs(uses)
    todo = plan(base, uses, context.note)
    layout = _layout(base, todo, params.dtype)
    base.copy_sidecars(context.output, _config(base, todo, params.dtype))
    measures: dict[str, Measure] = {}
    kept: list[float] = []
    with (
        context.output.create(WEIGHTS_FILE) as file,
        SafetensorsWriter(file, layout) as writer,
        ThreadPoolExecutor(context.threads) as pool,
    ):
        for done, shape in enumerate(layout):
            context.progress(done, len(layout), shape.name)
            origin, target = _origin(shape.name, base, todo), todo.targets.get(shape.name)
            if target is None and shape.dtype == base.tensors.info(origin).dtype:
                writer.write(shape.name, base.tensors.raw(origin))
            else:
                folded = fold(base.tensors, origin, shape, target, params.rank, pool)
                writer.write(shape.name, folded.value)
                if target is not None:
                    measures[shape.name] = folded.measure
                    kept.append(folded.kept)
            base.tensors.release(origin)
    context.progress(len(layout), len(layout), "folded")
    _note_losses(context, measures)
    facts = {
        **known,
        "dtype": main_dtype(layout),
        "parameters": _parameters(known, base, todo),
        "weight_bytes": (context.output.payload / WEIGHTS_FILE).stat().st_size,
        "tied": base.outline.tied and todo.untied_head is None,
        "adapters": [_fact(use) for use in uses],
        "folded_tensors": len(todo.targets),
    }
    observed: dict[str, object] = {"change": {name: _shares(each) for name, each in measures.items()}}
    if params.rank is not None:
        observed["least_kept"] = round(min(kept), SHOWN_DIGITS)
    return Result(facts, observed)


def _base(context: Context[LoraParams]) -> tuple[Checkpoint, Mapping[str, object]]:
    """The base with its weights in floating point, and its facts.

    Raises InputError for a quantized base unless it may be dequantized, and for one that needs not be.
    """
    from ..model.checkpoint import Checkpoint
    from ..model.dequantized import dequantized, plain_facts
    from ..model.quantized import QuantizedCheckpoint

    source, params = context.inputs["model"], context.params
    if source.kind == "checkpoint":
        if params.dequantize:
            what = "fuse.dequantize: the base is not quantized, so there is nothing to dequantize"
            raise InputError(what, fix="take it out")
        return Checkpoint.open(source.path), source.facts
    if not params.dequantize:
        raise InputError(
            "fuse.lora: the base is quantized, and its codes would round away what is added to a weight",
            fix="write fuse.dequantize: true to fold into what its codes stand for, and quantize behind it",
        )
    opened = QuantizedCheckpoint.open(source.path)
    if opened.transforms:
        context.note(
            f"{opened.method} rescaled the network before it rounded it: an adapter fits that was trained on "
            "the quantized network, not one that was trained on the network before"
        )
    codes = {"method": opened.method, "weights_by_width": source.facts["weights_by_width"]}
    return dequantized(opened), {**plain_facts(source.facts), "dequantized": codes}


def _input(context: Context[LoraParams], name: str) -> Path:
    """The directory of an input; raises RecipeError for one that there is not."""
    if name not in context.inputs or name == "model":
        given = ", ".join(each for each in context.inputs if each != "model")
        raise RecipeError(f"adapters: there is no input {name!r}", fix=f"inputs are {given or 'none'}")
    return context.inputs[name].path


def _require_pairs(uses: list[Use]) -> None:
    """Raises InputError where the changes of an adapter have no rank to speak of."""
    for use in uses:
        if use.adapter.config.decomposed:
            raise InputError(
                f"fuse.rank: {use.name} is a DoRA, which changes the norms of rows: that is of full rank",
                where=str(use.adapter.directory),
                fix="leave rank out",
            )


def _layout(base: Checkpoint, todo: Plan, dtype: str) -> list[TensorShape]:
    """What is written: the base's tensors in their order, and last a head that was tied."""
    from ...artifacts.tensors import TensorShape

    names = [name for name in base.tensors.names() if name != todo.untied_head]
    shapes = []
    for name in (*names, *((todo.untied_head,) if todo.untied_head else ())):
        info = base.tensors.info(_origin(name, base, todo))
        stored = STORED.get(dtype, info.dtype) if info.dtype in NAMES else info.dtype
        shapes.append(TensorShape(name, stored, info.shape))
    return shapes


def _origin(name: str, base: Checkpoint, todo: Plan) -> str:
    """The tensor of the base that a tensor is made of."""
    return base.architecture.embedding if name == todo.untied_head else name


def _config(base: Checkpoint, todo: Plan, dtype: str) -> Mapping[str, object]:
    """The config: what dtype the weights have, and whether a head is tied."""
    config = {**base.config, **({} if todo.untied_head is None else {TIED_KEY: False})}
    return config if dtype == BASE else with_dtype(config, dtype)


def _note_losses(context: Context[LoraParams], measures: Mapping[str, Measure]) -> None:
    """Says so where rounding took much of what the adapters changed."""
    changed, lost = (sum(getattr(each, name) for each in measures.values()) for name in ("change", "lost"))
    share = math.sqrt(lost / changed) if changed else 0.0
    if share > NOTED_LOSS:
        context.note(
            f"rounding the weights moved them by {share:.0%} of what the adapters changed (root mean "
            "square): fuse.dtype: float32 keeps all of it"
        )


def _parameters(facts: Mapping[str, object], base: Checkpoint, todo: Plan) -> int:
    """The parameters of the network, with those of a head that was tied."""
    added = base.tensors.info(base.architecture.embedding).count if todo.untied_head else 0
    return int(str(facts["parameters"])) + added


def _fact(use: Use) -> dict[str, object]:
    adapter = use.adapter
    return {
        "weight": use.weight,
        "modules": len(adapter.pairs),
        "ranks": sorted({pair.rank for pair in adapter.pairs.values()}),
        "dora": adapter.config.decomposed,
        "saved_tensors": len(adapter.saved),
    }


def _shares(measure: Measure) -> dict[str, float]:
    """Norms of a tensor's change, of its norm before, and of what rounding took, of the change's."""
    change = math.sqrt(measure.change)
    return {
        "relative": float(f"{change / math.sqrt(measure.before):.{SHOWN_DIGITS}g}")
        if measure.before
        else 0.0,
        "rounded_away": float(f"{math.sqrt(measure.lost) / change:.{SHOWN_DIGITS}g}") if change else 0.0,
    }
