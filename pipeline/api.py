"""The Python face of Ingot: the same objects as the command line, from a recipe file or from plain values.

import ingot

run = ingot.run(model="./checkpoint", targets=["cpu-int8"], gates={"perplexity": {"max_increase": "2%"}})
run.verdict, run.targets["cpu-int8"].metrics["perplexity"].delta
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.store import Store
from ..artifacts.yaml import Written
from .layers import command_line, environment
from .planning import plan as plan_recipe
from .recipe import Recipe, load_recipe, read_recipe
from .run import Run, RunOptions
from .run import run as run_recipe

if TYPE_CHECKING:
    from .events import Event
    from .plan import Plan

Values = Mapping[str, object]
SOURCE = "Python"


def run(
    recipe: str | Path | None = None,
    *,
    model: str | Path | None = None,
    targets: Sequence[str] | Values | None = None,
    data: Values | None = None,
    stages: Values | None = None,
    matrix: Values | None = None,
    gates: Values | None = None,
    measure: Values | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    select: Sequence[str] = (),
    store: Store | str | Path | None = None,
    out: str | Path | None = None,
    allow_failing: bool = False,
    force: bool = False,
    on_event: Callable[[Event], None] = lambda _event: None,
) -> Run:
    """Builds, gates and delivers every target; the same as `ingot run`.

    recipe: a YAML file, of mergekit's too, whose merge then is the only stage; or else model, targets,
    data, stages, matrix, gates and measure as a recipe has them, relative paths starting at the working
    directory.  settings: overrides such as ``"quantize.bits=4"``. select: the only targets and cells to
    build, as `--select` names them.  store: a store or its directory, by default INGOT_STORE, else
    `~/.cache/ingot`.  out: where deliveries go.  force: run although memory or disk space is predicted
    to be short.

    A target that fails its gate is in the result, not an exception. Raises RecipeError, IntakeError,
    DataError and RequirementError for what is wrong before work begins, StoreError when the disk refuses.
    """
    written = _recipe(recipe, model, targets, data, stages, matrix, gates, measure, seed, settings)
    options = RunOptions(
        out=Path(out) if out is not None else None,
        allow_failing=allow_failing,
        command="ingot.run(...)",
        select=tuple(select),
        force=force,
    )
    return run_recipe(written, _store(store), options, on_event)


def plan(
    recipe: str | Path | None = None,
    *,
    model: str | Path | None = None,
    targets: Sequence[str] | Values | None = None,
    data: Values | None = None,
    stages: Values | None = None,
    matrix: Values | None = None,
    gates: Values | None = None,
    measure: Values | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    select: Sequence[str] = (),
    store: Store | str | Path | None = None,
) -> Plan:
    """What :func:`run` would do with the same arguments, node by node and why; touches nothing."""
    written = _recipe(recipe, model, targets, data, stages, matrix, gates, measure, seed, settings)
    return plan_recipe(written, _store(store), select)


def _recipe(
    recipe: str | Path | None,
    model: str | Path | None,
    targets: Sequence[str] | Values | None,
    data: Values | None,
    stages: Values | None,
    matrix: Values | None,
    gates: Values | None,
    measure: Values | None,
    seed: int | None,
    settings: Sequence[str],
) -> Recipe:
    overrides = (*environment(os.environ), *command_line(settings))
    parts: dict[str, object] = {
        "model": str(model) if model is not None else None,
        "targets": targets if isinstance(targets, Mapping | None) else list(targets),
        "data": {role: _text(path) for role, path in data.items()} if data else None,
        "stages": stages,
        "matrix": matrix,
        "gates": gates,
        "measure": measure,
        "seed": seed,
    }
    given = {name: value for name, value in parts.items() if value is not None}
    if recipe is not None:
        return load_recipe(Path(recipe), overrides, given)
    return read_recipe(Written(given, SOURCE), Path.cwd(), overrides)


def _text(value: object) -> object:
    """A text's path, or those of several, as a recipe has them."""
    return [str(path) for path in value] if isinstance(value, list | tuple) else str(value)


def _store(store: Store | str | Path | None) -> Store:
    return store if isinstance(store, Store) else Store.open(Path(store) if store is not None else None)
