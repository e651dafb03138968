"""Carries a merge out: the checkpoints are opened, everything is resolved and checked, then written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RecipeError
from ...artifacts.tensors import TensorSource
from ..base import Context, Result
from ..model.checkpoint import CONFIG_FILE, Checkpoint
from ..model.dtypes import main_dtype
from ..model.families import outline
from .embeddings import Embeddings
from .execute import execute
from .models import open_models
from .operands import StoredOperand
from .output_config import output_config
from .resolve import Plan, resolve, unmatched_filters
from .sidecars import with_token_ids, write_sidecars
from .similarity import similarity
from .statistics import with_statistics
from .trials import finite
from .vocabulary import Words, merged_words, require_same_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from .method import Method
    from .models import Model
    from .recipe import Recipe
    from .task import Operand

MB = 1_000_000
# Tokens of a window of held-out text.
WINDOW = 256


@dataclass(frozen=True)
class Prepared:
    """A merge of which everything is known but the values.

    config: the content of config.json.  words: the tokens, where the recipe chooses them.  notes: what a
    person should know.
    """

    plan: Plan
    config: Mapping[str, object]
    words: Words | None
    notes: tuple[str, ...]


def build_merge(context: Context[Any], recipe: Recipe, method: Method, titles: Mapping[str, str]) -> Result:
    """Merges the inputs that ``recipe`` names.

    titles: input → what messages call it.  Raises InputError for models that do not fit one another, before
    anything is written.
    """
    models = opened(context, recipe, titles)
    made = prepare(recipe, method, models)
    plan = made.plan
    for note in made.notes:
        context.note(note)
    names = [task.output.name for task in plan.tasks]
    network = outline(made.config, CONFIG_FILE, names, models[recipe.donor].checkpoint.outline.context)
    write_sidecars(context, recipe, models, made.words, made.config)
    tasks = plan.tasks
    measure = _texts(context, recipe, models)
    if method.statistics is not None:
        tasks = with_statistics(context, models, method.statistics, tasks)
    most_mb = context.params.max_shard_mb
    observed = execute(
        tasks,
        {method.name: method},
        context.output,
        job=context.job,
        seed=context.seed,
        threads=context.threads,
        progress=context.progress,
        max_shard_bytes=None if most_mb is None else most_mb * MB,
    )
    facts = {
        **context.inputs[recipe.donor].facts,
        "dtype": main_dtype(task.output for task in plan.tasks),
        "tied": plan.is_tied,
        "parameters": sum(task.output.count for task in plan.tasks),
        "weight_bytes": sum(path.stat().st_size for path in context.output.payload.glob("*.safetensors")),
        "layers": network.layers,
        "vocabulary": network.vocabulary,
        "merge_method": method.name,
    }
    written = TensorSource.open(sorted(context.output.payload.glob("*.safetensors")))
    layout = models[recipe.donor].layout
    told = {
        "read_bytes": plan.read_bytes,
        "written_bytes": plan.written_bytes,
        "similarity": similarity(plan.tasks, layout, written, titles),
    }
    if measure is not None:
        told["texts"] = measure(titles)
    return Result(facts, {**observed, **told})


def _texts(
    context: Context[Any], recipe: Recipe, models: Mapping[str, Model]
) -> Callable[[Mapping[str, str]], dict[str, object]] | None:
    """What measures each model, and what was written, on the texts; None without any.

    Raises InputError, before anything is written, where such texts tell nothing.
    """
    texts, windows = context.params.texts, context.params.text_windows
    if not texts:
        return None
    from .held_out import HeldOut

    if recipe.vocabulary is not None:
        what = "texts: what networks of other tokens make of a text cannot be compared by the token"
        raise RecipeError(what, fix="leave out texts; validate measures the merge by itself")
    held_out = HeldOut(context, models[recipe.donor], texts, WINDOW, "held-out")

    def measure(titles: Mapping[str, str]) -> dict[str, object]:
        networks = {titles.get(name, name): each.checkpoint for name, each in models.items()}
        losses = {
            name: finite(held_out.losses(each.architecture, each.tensors, windows))
            for name, each in networks.items()
        }
        merged = Checkpoint.open(context.output.payload)
        return {
            "texts": [Path(text).name for text in texts],
            "sources": losses,
            "merged": finite(held_out.losses(merged.architecture, merged.tensors, windows)),
        }

    return measure


def check_merge(
    recipe: Recipe, method: Method, directories: Mapping[str, Path], titles: Mapping[str, str]
) -> None:
    """Raises InputError for models that do not fit one another or the recipe. directories: by input."""
    prepare(recipe, method, _opened(recipe, directories, titles))


def opened(context: Context[Any], recipe: Recipe, titles: Mapping[str, str]) -> dict[str, Model]:
    """The models of a merge by input; errors as in :func:`open_models`."""
    return _opened(recipe, {name: each.path for name, each in context.inputs.items()}, titles)


def _opened(recipe: Recipe, directories: Mapping[str, Path], titles: Mapping[str, str]) -> dict[str, Model]:
    checkpoints = {name: Checkpoint.open(directories[name]) for name in recipe.inputs()}
    named = {name: f"{name} ({titles[name]})" if name in titles else name for name in checkpoints}
    return open_models(checkpoints, named, recipe.donor)


def prepare(recipe: Recipe, method: Method, models: Mapping[str, Model]) -> Prepared:
    """Resolves a merge from headers, configs and tokenizers.

    Raises InputError for models, tokens and parameters that do not fit one another.
    """
    donor = models[recipe.donor]
    if recipe.vocabulary is None:
        plan = resolve(recipe, method, models, stored)
        notes = (*require_same_words(models, recipe.donor), *unmatched_filters(recipe, models))
        return Prepared(plan, output_config(donor, models, plan), None, notes)
    words = merged_words(recipe, models)
    embeddings = Embeddings(recipe, models, words)
    plan = resolve(recipe, method, models, embeddings.open)
    config = with_token_ids(output_config(donor, models, plan), models[words.start].checkpoint.config)
    config["vocab_size"] = embeddings.rows
    notes = (*words.notes, *unmatched_filters(recipe, models))
    before = models[words.start].vocabulary
    if embeddings.rows < before:
        what = f"the embedding has {embeddings.rows:,} rows, as many as there are tokens, where"
        fix = "tokenizer.pad_to_multiple_of keeps it at a round size"
        notes = (*notes, f"{what} {models[words.start].title} had {before:,}; {fix}")
    return Prepared(plan, config, words, notes)


def stored(model: Model, tensor: str) -> Operand:
    """A tensor of a model as it is stored."""
    return StoredOperand(model.checkpoint.tensors, model.name, model.tensors[tensor])
