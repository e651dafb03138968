"""`expand`: factored and shared layers written out whole, for what knows nothing of them."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Context, Result, stage

# What a compact checkpoint's facts say of how it is stored.
OF_STORAGE = ("factored_by", "rank_by_weight", "factored_parameters", "kept", "shared_by", "shared_modules")


@dataclass(frozen=True)
class ExpandParams:
    """`expand` has no parameters: products of two maps need float32, and all else stays as it is stored."""


@stage(
    "expand",
    params=ExpandParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy",),
    summary="Write factored and shared layers out whole: a checkpoint that plain transformers loads",
    same_function=True,
    takes_compact=True,
)
def run(context: Context[ExpandParams]) -> Result:
    """Writes the product of each factored weight, in float32, and each shared one at all its places."""
    from .model.checkpoint import WEIGHTS_FILE, Checkpoint
    from .model.dtypes import with_dtype
    from .model.whole import Whole

    source = Checkpoint.open(context.inputs["model"].path)
    whole = Whole.of(source)
    with context.output.create(WEIGHTS_FILE) as stream:
        whole.save(stream, context.progress)
    facts = {key: value for key, value in context.inputs["model"].facts.items() if key not in OF_STORAGE}
    config = whole.config
    if whole.compact.factored:
        # Whoever loads it in fewer bits rounds the products, which the factors never were.
        config, facts = with_dtype(config, "float32"), {**facts, "dtype": "float32"}
    source.copy_sidecars(context.output, config)
    return Result(facts)
