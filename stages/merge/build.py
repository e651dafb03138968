"""Carries a merge out: the checkpoints are opened, everything is resolved and checked, then written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base import Context, Result
from ..model.checkpoint import CONFIG_FILE, Checkpoint
from ..model.families import outline
from .execute import execute
from .models import open_models
from .operands import StoredOperand
from .output_config import main_dtype, output_config
from .resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .method import Method
    from .models import Model
    from .recipe import Recipe
    from .task import Operand


def build_merge(context: Context[Any], recipe: Recipe, method: Method, titles: Mapping[str, str]) -> Result:
    """Merges the inputs that ``recipe`` names.

    titles: input → what messages call it.  Raises InputError for models that do not fit one another, before
    anything is written.
    """
    models = opened(context, recipe, titles)
    donor = models[recipe.donor]
    plan = resolve(recipe, method, models, stored)
    config = output_config(donor, models, plan)
    network = outline(
        config, CONFIG_FILE, [task.output.name for task in plan.tasks], donor.checkpoint.outline.context
    )
    _write_sidecars(context, donor, config)
    observed = execute(
        plan.tasks,
        {method.name: method},
        context.output,
        job=context.job,
        seed=context.seed,
        threads=context.threads,
        progress=context.progress,
    )
    facts = {
        **context.inputs[recipe.donor].facts,
        "dtype": main_dtype(plan),
        "tied": plan.is_tied,
        "parameters": sum(task.output.count for task in plan.tasks),
        "weight_bytes": sum(path.stat().st_size for path in context.output.payload.glob("*.safetensors")),
        "layers": network.layers,
        "vocabulary": network.vocabulary,
        "merge_method": method.name,
    }
    moved = {"read_bytes": plan.read_bytes, "written_bytes": plan.written_bytes}
    return Result(facts, {**observed, **moved})


def opened(context: Context[Any], recipe: Recipe, titles: Mapping[str, str]) -> dict[str, Model]:
    """The models of a merge by input; errors as in :func:`open_models`."""
    checkpoints = {name: Checkpoint.open(context.inputs[name].path) for name in recipe.inputs()}
    named = {name: f"{name} ({titles[name]})" if name in titles else name for name in checkpoints}
    return open_models(checkpoints, named, recipe.donor)


def stored(model: Model, tensor: str) -> Operand:
    """A tensor of a model as it is stored."""
    return StoredOperand(model.checkpoint.tensors, model.name, model.tensors[tensor])


def _write_sidecars(context: Context[Any], donor: Model, config: Mapping[str, object]) -> None:
    for path in donor.checkpoint.sidecars():
        if path.name != CONFIG_FILE:
            context.output.copy_in(path, path.name)
    context.output.write_json(CONFIG_FILE, config)
