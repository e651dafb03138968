"""`fuse.extract_lora`: what a finetuned model changed in its base, as a LoRA adapter that PEFT loads.

The difference of each linear weight is cut to its largest singular values, the best approximation of its
rank (Eckart and Young 1936): D ≈ B·A with B = U√S and A = √S·Vᵀ. What that leaves out is measured, weight by
weight and as a whole; so is what no pair can hold, such as changed norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.dtypes import STORED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .extraction import Extraction
    from .siblings import Siblings

REPORT, SAVE = "report", "save"
NAMED_IN_NOTES = 3
# PEFT's names of tasks.
TASKS = {"causal-lm": "CAUSAL_LM", "seq2seq-lm": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}


@dataclass(frozen=True)
class ExtractLoraParams:
    """Parameters of `fuse.extract_lora`."""

    rank: int = param(
        16,
        minimum=1,
        doc="rank of every pair, or the largest where energy is given; 16, as adapters are often trained",
    )
    energy: float | None = param(
        None,
        minimum=0.0,
        maximum=1.0,
        doc="share of each difference's squared norm that is enough, such as 0.95: each pair has the "
        "smallest rank that keeps as much, up to rank",
    )
    ignore: tuple[str, ...] = param(
        ("*lm_head.weight", "*embed_out.weight"),
        doc="patterns of linear weights that get no pair; the output head, as adapters are usually trained",
    )
    others: str = param(
        REPORT,
        choices=(REPORT, SAVE),
        doc="what becomes of changed tensors that no pair holds, such as norms, biases and embeddings; "
        "report says by how much they changed; save stores them whole, which makes the adapter larger",
    )
    dtype: str = param(
        "float32", choices=tuple(STORED), doc="of the adapter's tensors; float32, since they are small"
    )


@stage(
    "fuse.extract_lora",
    params=ExtractLoraParams,
    inputs={"model": ("checkpoint",), "base": ("checkpoint",)},
    output="adapter",
    version=1,
    determinism="seeded",
    tools=("numpy",),
    summary="What a finetuned model changed in its base, as a LoRA adapter: truncated singular values",
)
def run(context: Context[ExtractLoraParams]) -> Result:
    """Writes an adapter directory; `base` with it is the nearest to `model` that its ranks allow.

    Raises InputError where the two are not of one architecture and size, where nothing linear differs, and
    where `others: save` meets a tensor that no adapter can store.
    """
    from ..model.adapters import Adapter
    from .extraction import Cut, Extraction, save, take
    from .siblings import Siblings

    params = context.params
    both = Siblings.of(context.inputs["model"].path, context.inputs["base"].path)
    made = Extraction()
    cut = Cut(params.rank, params.energy, STORED[params.dtype], params.ignore, context.seed)
    for done, name in enumerate(both.names):
        context.progress(done, len(both.names), name)
        take(made, both, name, cut)
        both.release(name)
    context.progress(len(both.names), len(both.names), "factored")
    if not made.ranks:
        fix = "give the base that the model was finetuned from, and ignore fewer weights"
        raise InputError("no linear weight differs between the model and its base", fix=fix)
    if params.others == SAVE:
        for name in made.left_out:
            save(made, both, name)
    _write(context, both, made)
    observed = _observed(made, params.others == SAVE)
    _note(context, made, observed)
    return Result(Adapter.open(context.output.payload).describe(), observed)


def _write(context: Context[ExtractLoraParams], both: Siblings, made: Extraction) -> None:
    """The adapter's two files. Its scale is one: alpha is the rank, for every module."""
    from ...artifacts.tensors import SafetensorsWriter
    from ..model.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterConfig, config_json

    largest = max(made.ranks.values())
    smaller = {_exactly(module): rank for module, rank in made.ranks.items() if rank < largest}
    model = both.model.architecture
    config = AdapterConfig(
        rank=largest,
        alpha=float(largest),
        ranks=smaller,
        alphas={module: float(rank) for module, rank in smaller.items()},
        fan_in_fan_out=any(linear.stored_in_out for linear in both.linears.values()),
        targets=tuple(made.ranks),
        saved=tuple(made.saved),
        biases="all" if made.has_biases else "none",
    )
    if model.routed & set(made.pairs):
        context.note(
            "experts' pairs are named as the checkpoint names their weights; PEFT finds no such modules with "
            "transformers 5, which holds all experts in one parameter"
        )
    context.output.write_json(CONFIG_FILE, config_json(config, TASKS[model.task]))
    entries = [made.tensors[name] for name in sorted(made.tensors)]
    with (
        context.output.create(WEIGHTS_FILE) as file,
        SafetensorsWriter(file, [shape for shape, _ in entries]) as writer,
    ):
        for shape, value in entries:
            writer.write(shape.name, value.reshape(-1).view("u1"))


def _exactly(module: str) -> str:
    """The pattern of PEFT's that names this module and no other."""
    return "^" + module.replace(".", r"\.")


def _observed(made: Extraction, is_saved: bool) -> dict[str, object]:
    """What the adapter misses: of each pair, of the whole, and of tensors that it does not hold."""
    from .extraction import short

    squares = made.squares
    left = 0.0 if is_saved else squares["others"]
    return {
        "pairs": made.pairs,
        "left_out": {} if is_saved else made.left_out,
        "missed_by_pairs": short(math.sqrt(squares["missed"] / (squares["all"] - squares["others"]))),
        "missed": short(math.sqrt((squares["missed"] + left) / squares["all"])),
    }


def _note(context: Context[ExtractLoraParams], made: Extraction, observed: Mapping[str, object]) -> None:
    """What the adapter misses, in words."""
    worst = max(made.pairs, key=lambda name: made.pairs[name]["missed"])
    context.note(
        f"the adapter misses {observed['missed']:.1%} of the norm of what changed; its pairs "
        f"{observed['missed_by_pairs']:.1%} of theirs, most in {worst} ({made.pairs[worst]['missed']:.1%})"
    )
    left = observed["left_out"]
    if isinstance(left, dict) and left:
        shown = sorted(left, key=lambda name: -left[name])[:NAMED_IN_NOTES]
        named = ", ".join(f"{name} by {left[name]:.2%}" for name in shown)
        more = f" and {len(left) - len(shown)} more" if len(left) > len(shown) else ""
        context.note(f"changed and not in the adapter: {named}{more}; fuse.others: save stores them")
