"""Models that a step's parameters name become nodes: a merge's models and adapters are loaded like any other.

    merge: {method: ties, models: [{model: ./a, weight: 0.6}, {model: thin}]}

Here `./a` is loaded by a node called `load-a`, and `thin` is the recipe's node of that name; the merge takes
both as inputs, and what its parameters then say is which input is meant, so that no path gets into a key.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..stages import base
from ..targets.rules import Setting
from .layers import METHOD
from .locate_model import ADAPTER as ADAPTER_FILES
from .locate_model import CHECKPOINT, find_model
from .steps import LOAD, ONE, Step, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from .layers import Override
    from .matrix import Axis

    Expand = Callable[[Mapping[str, object], Path, str], base.Expansion]
    Placed = tuple[base.Source, Mapping[str, str]]

ADAPTER, FUSE, LORA, MODEL = "adapter", "fuse", "lora", "model"
_UNSAFE = re.compile(r"[^a-z0-9_-]+")


def with_models(
    steps: Sequence[Step],
    settings: Sequence[Setting],
    matrix: Sequence[Axis],
    overrides: Sequence[Override],
    directory: Path,
    merge_base: tuple[str, str] | None = None,
) -> tuple[tuple[Step, ...], tuple[Setting, ...]]:
    """The nodes and their settings with a node for every model that a step names.

    directory: where relative paths start.  merge_base: the recipe's `base` and where that was written, which
    stands for the node before a merge.  Raises RecipeError for a model that does not exist, for a `base` that
    no step takes, and for a setting from outside that names models.
    """
    grown = _Grown(steps, directory)
    kept = list(settings)
    for step in steps:
        stage = _stage(step, settings, matrix)
        if stage is None or stage.expand is None:
            continue
        before = step.takes.get(ONE, LOAD)
        if merge_base is not None and MODEL in stage.many:
            before, merge_base = merge_base[0], None
        own = {setting.path[1]: setting for setting in kept if setting.path[0] == step.name}
        values = {name: setting.value for name, setting in own.items() if name != METHOD}
        expansion = _expanded(stage.expand, step, values, directory, before)
        places = {name: own[name].origin if name in own else step.origin for name in expansion.values}
        changed = {name: new for name, new in expansion.values.items() if values.get(name) != new}
        _require_own(step, changed, matrix, overrides)
        kept = [each for each in kept if each.path[0] != step.name or each.path[1] not in changed]
        kept += [Setting((step.name, name), value, places[name]) for name, value in changed.items()]
        grown.take(step, stage, {name: (source, places) for name, source in expansion.sources.items()})
    if merge_base is not None:
        fix = "a base belongs to a merge; take it out"
        what = f"base: {merge_base[0]!r} is not used by any stage of this recipe"
        raise RecipeError(what, where=merge_base[1], fix=fix)
    return tuple(in_order(grown.steps())), (*kept, *grown.settings)


def _stage(step: Step, settings: Iterable[Setting], matrix: Iterable[Axis]) -> base.Stage[object] | None:
    """The stage of a step; where a matrix fans its method out, of the first method. None for an unknown one,
    which is refused where its parameters are read.
    """
    methods = [setting.value for setting in settings if setting.path == (step.name, METHOD)]
    methods += [axis.values[0].value for axis in matrix if axis.path == (step.name, METHOD)]
    name = f"{step.family}.{methods[0]}" if methods else step.family
    return base.get(name) if name in base.BUILTIN or name in base.names() else None


def _expanded(
    expand: Expand, step: Step, values: Mapping[str, object], directory: Path, before: str
) -> base.Expansion:
    """What the stage makes of its parameters; its errors say where the step was written at least."""
    try:
        return expand(values, directory, before)
    except RecipeError as error:
        raise RecipeError(error.what, where=error.where or step.origin, fix=error.fix) from None


def _require_own(
    step: Step, names: Iterable[str], matrix: Iterable[Axis], overrides: Iterable[Override]
) -> None:
    """Raises RecipeError for a parameter that names models and is set from outside the recipe's `stages`."""
    outside: dict[tuple[str, ...], str] = {axis.path: axis.origin for axis in matrix}
    outside |= {each.setting.path: each.setting.origin for each in overrides}
    for name in names:
        if (step.name, name) in outside:
            what = f"{step.name}.{name} names models, which are nodes of the recipe"
            raise RecipeError(what, where=outside[step.name, name], fix=f"write it under stages.{step.name}")


class _Grown:
    """The recipe's steps, and those that are added to load what they name."""

    def __init__(self, steps: Sequence[Step], directory: Path) -> None:
        self._steps = {step.name: step for step in steps}
        self._directory = directory
        self._made: dict[tuple[str, ...], str] = {}
        self.settings: list[Setting] = []

    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps.values())

    def take(
        self,
        step: Step,
        stage: base.Stage[object],
        sources: Mapping[str, tuple[base.Source, Mapping[str, str]]],
    ) -> None:
        """Lets ``step`` take the models that it names. sources: input → model, and parameter → where it was
        written.
        """
        takes = {name: node for name, node in step.takes.items() if name != ONE}
        if ONE in step.takes and stage.inputs:
            takes[next(iter(stage.inputs))] = step.takes[ONE]
        for name, (source, places) in sources.items():
            takes[name] = self._node(source, step.name, places.get(source.key, step.origin))
        self._steps[step.name] = replace(step, takes=takes)

    def _node(self, source: base.Source, owner: str, where: str) -> str:
        """The node that makes what ``source`` names; added where the recipe has none."""
        is_node = source.name in self._steps or (source.name == LOAD and not source.is_adapter)
        if source.is_adapter and not is_node:
            return self._load(source.name, where, f"{owner}.{source.origin}", ADAPTER)
        node = source.name if is_node else self._load(source.name, where, f"{owner}.{source.origin}")
        for adapter in source.adapters:
            node = self._folded(node, self._load(adapter, where, f"{owner}.{source.origin}", ADAPTER), where)
        return node

    def _load(self, name: str, where: str, label: str, method: str | None = None) -> str:
        holds = CHECKPOINT if method is None else ADAPTER_FILES
        found = find_model(name, self._directory, label, where, holds)
        if (found, method or "") not in self._made:
            node = self._free(f"{LOAD}-{_slug(found)}")
            self._made[found, method or ""] = node
            self._steps[node] = Step(node, LOAD, {}, where, {})
            self.settings.append(Setting((node, method or MODEL), found, where))
            if method is not None:
                self.settings.append(Setting((node, METHOD), method, where))
        return self._made[found, method or ""]

    def _folded(self, node: str, adapter: str, where: str) -> str:
        if (node, adapter, LORA) not in self._made:
            name = self._free(f"{node}-{adapter.removeprefix(f'{LOAD}-')}")
            self._made[node, adapter, LORA] = name
            self._steps[name] = Step(name, FUSE, {MODEL: node, f"{ADAPTER}1": adapter}, where, {})
            adapters = [{ADAPTER: f"{ADAPTER}1"}]
            self.settings += [
                Setting((name, METHOD), LORA, where),
                Setting((name, f"{ADAPTER}s"), adapters, where),
            ]
        return self._made[node, adapter, LORA]

    def _free(self, name: str) -> str:
        """``name``, with a number behind it where a node is called that already."""
        count, found = 2, name
        while found in self._steps:
            found, count = f"{name}-{count}", count + 1
        return found


def _slug(model: str) -> str:
    """The last part of a model's name, as a node may be called."""
    return _UNSAFE.sub("-", model.rstrip("/").rpartition("/")[2].lower()).strip("-") or MODEL
