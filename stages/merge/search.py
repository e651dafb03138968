"""`merge.search`: the coefficients of a merge, chosen by what it makes of held-out texts.

Trials are never written: a trial's tensors are made while the texts go through the network, one block at a
time, so a search takes as much memory as one block, the output head and the texts' activations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError, RecipeError, StageError
from ...artifacts.schema import param
from ..base import Context, Expansion, Result, stage
from .config import read_short
from .method import get, refuse_statistics
from .references import Given
from .space import WEIGHT, WEIGHTS, Space
from .stage import INPUTS, NOT_MERGED, TOOLS, ShortParams, expand_short
from .trials import Budget, Memory, Trial, finite, search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model.checkpoint import Checkpoint
    from .method import Method
    from .models import Model
    from .recipe import Recipe

TRIALS_FILE = "trials.jsonl"
# What describes the merge, and not the search; what is written beside it is no part of either.
OF_MERGE = tuple(field.name for field in dataclasses.fields(ShortParams) if field.name not in NOT_MERGED)


@dataclass(frozen=True)
class SearchParams(ShortParams):
    """Parameters of `merge.search`."""

    algorithm: str = param(
        doc="the method whose coefficients are chosen, such as task_arithmetic; with good ones the plain "
        "methods are as good as any (arXiv:2511.21437)"
    )
    ranges: Mapping[str, tuple[float, ...]] | None = param(
        None, doc="parameter → [lowest, highest]; by default every model's weight, from 0 to 1"
    )
    knots: int = param(
        1,
        minimum=1,
        maximum=16,
        doc="values from the first layer to the last, interpolated in between; one for all by default",
    )
    trials: int = param(48, minimum=1, maximum=10_000, doc="merges that are tried; 10 for each number, say")
    finalists: int = param(4, minimum=1, doc="of them, how many are compared on more text in the end")
    selection: tuple[str, ...] = param(
        is_file=True, doc="texts that choose; their mean losses a token count the same"
    )
    window: int = param(256, minimum=2, doc="tokens of a window, fewer where the context is shorter")
    samples: int = param(16, minimum=1, doc="windows of each text that a trial sees; all see the same ones")
    final_samples: int = param(64, minimum=1, doc="windows of each text that finalists are compared on")
    activation_budget_mb: int = param(
        1024,
        minimum=0,
        in_key=False,
        doc="megabytes of activations held in memory; those past it lie in files of the job's directory",
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for a range that is no pair, and for a tokenizer that is to be chosen too."""
        for name, values in (self.ranges or {}).items():
            if len(values) != 2:
                raise RecipeError(f"ranges.{name}: {list(values)} is no range", fix="write [lowest, highest]")
        for name in ("tokenizer_source", "tokenizer"):
            if getattr(self, name) is not None:
                fix = "merge the vocabularies in a merge of their own, before or behind it"
                raise RecipeError(f"{name}: a search takes models of one vocabulary", fix=fix)


def _expand(values: Mapping[str, object], directory: Path, before: str) -> Expansion:
    algorithm = values.get("algorithm")
    if not isinstance(algorithm, str):
        raise RecipeError("algorithm is missing", fix="name a method to search, such as task_arithmetic")
    method = get(algorithm)
    refuse_statistics(method, "a search")
    found = expand_short(_of_merge(values), method, directory, before)
    return Expansion({**values, **found.values}, found.sources)


def _preflight(params: SearchParams, directories: Mapping[str, Path]) -> None:
    from .build import check_merge

    method = get(params.algorithm)
    space = _space(params, read_short(_of_merge(vars(params)), method, Given(), None), method)
    # One of the merges that are tried stands for all: they differ in numbers within the same ranges.
    check_merge(space.at(next(iter(space.anchors()))), method, directories, params.titles or {})


def _space(params: SearchParams, recipe: Recipe, method: Method) -> Space:
    pairs = params.ranges or {WEIGHT: WEIGHTS}
    return Space.of(recipe, method, {name: (low, high) for name, (low, high) in pairs.items()}, params.knots)


def _of_merge(values: Mapping[str, object]) -> dict[str, object]:
    """Those of the values that describe the merge, and not the search."""
    return {name: value for name, value in values.items() if name in OF_MERGE and value is not None}


@stage(
    "merge.search",
    params=SearchParams,
    inputs={},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=(*TOOLS, "cmaes", "tokenizers"),
    summary="Merge models with the coefficients that make held-out texts likeliest",
    many=INPUTS,
    expand=_expand,
    preflight=_preflight,
)
def run(context: Context[SearchParams]) -> Result:
    """Searches the coefficients of ``algorithm`` and carries the best merge out.

    The trials are in what is observed, the coefficients in the facts. Raises InputError for models that
    predict no next token, or do not fit one another, DataError for a text that fills no window, and
    StageError where every merge within the ranges breaks the network.
    """
    from .blocks import Workers
    from .build import build_merge

    params = context.params
    method = get(params.algorithm)
    recipe = read_short(_of_merge(vars(params)), method, Given(), None)
    space = _space(params, recipe, method)
    titles = params.titles or {}
    with Workers(context.threads) as workers:
        bench = _Bench(context, recipe, method, titles, workers)
        memory = Memory(context.job / TRIALS_FILE, lambda point, count: bench.losses(space.at(point), count))
        budget = Budget(
            params.trials, params.samples, params.finalists, max(params.samples, params.final_samples)
        )
        bounds = [(axis.low, axis.high) for axis in space.axes]
        best, trials = search(memory, bounds, tuple(space.anchors()), budget, context.seed, context.progress)
        sources = {name: bench.source_losses(name, budget.final_windows) for name in recipe.inputs()}
    if best.score == math.inf:
        what = "every merge within the ranges gives numbers that are not finite on the selection texts"
        raise StageError(what, fix="narrow the ranges")
    _tell(context, best, sources, titles)
    result = build_merge(context, space.at(best.point), method, titles)
    chosen = [
        {"parameter": name, **({} if model is None else {"model": model}), "value": value}
        for (name, model), value in space.settings(best.point).items()
    ]
    texts = [Path(path).name for path in params.selection]
    observed = {
        "search": {
            "texts": texts,
            "parameters": [[axis.parameter, axis.model, axis.knot] for axis in space.axes],
            "trials": [trial.to_json() for trial in trials],
            "best": best.to_json(),
            "sources": {titles.get(name, name): finite(losses) for name, losses in sources.items()},
            "resumed": memory.resumed,
        }
    }
    return Result({**result.facts, "coefficients": chosen}, {**result.observed, **observed})


def _tell(
    context: Context[SearchParams],
    best: Trial,
    sources: Mapping[str, Sequence[float]],
    titles: Mapping[str, str],
) -> None:
    """Says so where a model by itself is as good as the best merge."""
    means = {name: sum(losses) / len(losses) for name, losses in sources.items()}
    name = min(means, key=lambda each: means[each])
    if means[name] <= best.score:
        context.note(
            f"no merge within the ranges was better than {titles.get(name, name)} alone: "
            f"{best.score:.4f} nats a token, against {means[name]:.4f}"
        )


class _Bench:
    """Measures merges, and the models that they are of, on the selection texts."""

    def __init__(
        self,
        context: Context[Any],
        recipe: Recipe,
        method: Method,
        titles: Mapping[str, str],
        workers: Any,
    ) -> None:
        from .build import opened
        from .held_out import HeldOut

        self._context = context
        self._method = method
        self._workers = workers
        self._models: Mapping[str, Model] = opened(context, recipe, titles)
        self._donor = self._models[recipe.donor]
        params = context.params
        self._texts = HeldOut(context, self._donor, params.selection, params.window, "selection")

    def losses(self, recipe: Recipe, windows: int) -> tuple[float, ...]:
        """The loss of each text in a merge, nats a token; infinite for one that cannot be carried out."""
        from ..model.checkpoint import CONFIG_FILE
        from ..model.families import architecture
        from .build import stored
        from .output_config import output_config
        from .resolve import resolve
        from .virtual import MergedTensors

        plan = resolve(recipe, self._method, self._models, stored)
        try:
            for task in plan.tasks:
                if self._method.check is not None:
                    self._method.check(task)
        except InputError:
            return (math.inf,) * len(self._context.params.selection)
        config = output_config(self._donor, self._models, plan)
        model = architecture(config, CONFIG_FILE, [task.output.name for task in plan.tasks])
        methods = {self._method.name: self._method}
        merged = MergedTensors(plan.tasks, methods, self._workers, self._context.seed)
        return self._texts.losses(model, merged, windows)

    def source_losses(self, name: str, windows: int) -> tuple[float, ...]:
        """The loss of each text in an input by itself."""
        checkpoint: Checkpoint = self._models[name].checkpoint
        return self._texts.losses(checkpoint.architecture, checkpoint.tensors, windows)
