"""The nodes of `stages:`, written short or long; both forms lead to the same graph.

    stages:
      prune: {method: structured, ffn: 0.25}         # short: named after its family, takes what stands before
      thin:                                          # long: any name, any place in the graph
        stage: prune.structured
        params: {ffn: 0.25}
        from: load                                   # one node, or {input: node, ...} for several
      healed: {stage: distill, from: {model: thin, teacher: load}}
      quantize: {method: rtn, bits: 4}               # quantize and export belong to the targets

`load` is the recipe's model. Nodes may be written in any order; a node without `from` takes the one that is
written before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError, nearest
from ..artifacts.schema import build, param, unknown_name
from ..stages import base
from ..targets.profile import SECTIONS, STAGE_SECTIONS
from ..targets.rules import Setting
from .layers import GATES, METHOD, NONE

if TYPE_CHECKING:
    from ..artifacts.yaml import KeyPath, Written

LOAD = "load"
VALIDATE = "validate"
SHARED_FAMILIES = ("merge", "fuse", "prune", "distill", "finetune", "factor", "share")
# What a stage's only input is called where a recipe does not spell its name.
ONE = ""
FROM = "from"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
# Names of nodes and of settings that Ingot gives itself.
RESERVED = (LOAD, *SECTIONS, GATES)


@dataclass(frozen=True)
class Step:
    """One node of `stages:`; its method and its parameters are settings under its name.

    family: of its stage.  takes: input name → node, :data:`ONE` for an input without a name; empty for what
    stands before.  origin: where it was written.  places: input name → where that was written.
    """

    name: str
    family: str
    takes: Mapping[str, str]
    origin: str
    places: Mapping[str, str]

    def place(self, name: str) -> str:
        """Where the recipe says what the input called ``name`` takes."""
        return self.places.get(name) or self.places.get(ONE) or self.origin


@dataclass(frozen=True)
class NodeFields:
    """A node in the long form, as it is written."""

    stage: str = param(doc="the stage's whole name, such as prune.structured")
    params: Mapping[str, object] | None = param(None, doc="the stage's parameters")
    takes: object = param(None, written=FROM, doc="the node it takes, or input → node for several inputs")


@dataclass(frozen=True)
class Entry:
    """What one entry of `stages:`, or of a target's `quantize:` and `export:`, says."""

    family: str
    settings: tuple[Setting, ...]
    takes: Mapping[str, str]
    places: Mapping[str, str]


def read_steps(
    tree: Mapping[str, object], written: Written, place: KeyPath = ("stages",)
) -> tuple[tuple[Step, ...], tuple[Setting, ...]]:
    """The nodes of `stages:` in the order in which they can run, and the settings of all entries.

    Raises RecipeError for unknown families, stages and nodes, for names that are taken, and for a circle.
    """
    steps: list[Step] = []
    settings: list[Setting] = []
    for name, value in tree.items():
        where = written.where(*place, name)
        entry = _read(name, value, written, (*place, name))
        settings += entry.settings
        if name not in STAGE_SECTIONS:
            before = steps[-1].name if steps else LOAD
            takes = entry.takes or ({} if entry.family == LOAD else {ONE: before})
            steps.append(Step(name, entry.family, takes, where, entry.places))
        elif entry.takes:
            fix = f"give the node a name of its own, and let a target take it: {FROM}: NAME"
            raise RecipeError(
                f"{name} belongs to the targets, so it takes no node", where=entry.places[""], fix=fix
            )
    _check_names(steps, place)
    return tuple(in_order(steps)), tuple(settings)


def section_settings(tree: Mapping[str, object], written: Written, place: KeyPath) -> Iterator[Setting]:
    """The settings of a target's own `quantize` and `export`."""
    for name, value in tree.items():
        entry = _read(name, value, written, (*place, name))
        if entry.takes:
            fix = f"write {FROM}: NODE for the whole target"
            raise RecipeError(
                f"{name} takes what comes before it in the target", where=entry.places[""], fix=fix
            )
        yield from entry.settings


def _read(name: str, value: object, written: Written, place: KeyPath) -> Entry:
    where = written.where(*place)
    if isinstance(value, dict) and "stage" in value:
        return _long(name, value, written, place)
    if name not in (*STAGE_SECTIONS, *SHARED_FAMILIES) and name not in _plugin_families():
        return _unknown(name, value, where, place)
    if isinstance(value, str):
        return Entry(name, (Setting((name, METHOD), value, where),), {}, {})
    if not isinstance(value, dict):
        fix = f"write {name}: {{method: ..., parameters}}, or {name}: {NONE}"
        raise RecipeError(f"{name}: {value!r} is not a method or a mapping", where=where, fix=fix)
    takes, places = _sources(name, value.get(FROM), written, place)
    settings = tuple(
        Setting((name, key), item, written.where(*place, key)) for key, item in value.items() if key != FROM
    )
    return Entry(name, settings, takes, places)


def _unknown(name: str, value: object, where: str, place: KeyPath) -> Entry:
    """Raises RecipeError for a name that is no family: a misspelt one, or a node without its stage."""
    valid = (*SHARED_FAMILIES, *STAGE_SECTIONS)
    label = ".".join(map(str, place[:-1]))
    if nearest(name, valid) is None and isinstance(value, dict):
        fix = f"write {name}: {{stage: FAMILY.METHOD, params: {{...}}, {FROM}: NODE}}"
        raise RecipeError(f"{label}.{name} is no family of stages, and names no stage", where=where, fix=fix)
    raise unknown_name(name, valid, prefix=label, where=where)


def _long(name: str, value: Mapping[str, object], written: Written, place: KeyPath) -> Entry:
    def locate(key: str) -> str:
        return written.where(*place, key)

    label = ".".join(map(str, place))
    fields = build(NodeFields, value, prefix=label, locate=locate)
    family, _, method = fields.stage.partition(".")
    if family == VALIDATE:
        fix = "every target is measured by itself; parameters go under measure:"
        raise RecipeError(
            f"{label}.stage: {fields.stage} belongs to the targets", where=locate("stage"), fix=fix
        )
    if fields.stage not in base.BUILTIN and fields.stage not in base.names():
        raise _no_stage(label, fields.stage, locate("stage"))
    if name in STAGE_SECTIONS and family != name:
        fix = f"give the node another name, and let a target take it: {FROM}: NAME"
        raise RecipeError(
            f"{label}.stage: {fields.stage} is no stage of {name}", where=locate("stage"), fix=fix
        )
    if name in RESERVED and name not in STAGE_SECTIONS:
        fix = f"these names are Ingot's own: {', '.join(RESERVED)}"
        raise RecipeError(f"{label}: a node cannot be called {name!r}", where=written.where(*place), fix=fix)
    settings = [Setting((name, METHOD), method, locate("stage"))] if method else []
    settings += [
        Setting((name, key), item, written.where(*place, "params", key))
        for key, item in (fields.params or {}).items()
    ]
    return Entry(family, tuple(settings), *_sources(name, fields.takes, written, place))


def _sources(
    name: str, value: object, written: Written, place: KeyPath
) -> tuple[dict[str, str], dict[str, str]]:
    """What `from` says: input name → node, and input name → where; both empty when it says nothing."""
    where = written.where(*place, FROM)
    if value is None:
        return {}, {}
    if isinstance(value, str):
        return {ONE: value}, {ONE: where}
    if not isinstance(value, dict) or not all(isinstance(node, str) for node in value.values()):
        fix = f"write {FROM}: NODE, or {FROM}: {{input: NODE, ...}}"
        raise RecipeError(f"{name}.{FROM}: {value!r} names no node", where=where, fix=fix)
    places = {key: written.where(*place, FROM, key) for key in value}
    return dict(value), {ONE: where, **places}


def _no_stage(label: str, stage: str, where: str) -> RecipeError:
    guess = nearest(stage, base.names())
    fix = f"did you mean {guess}?" if guess else f"stages are {', '.join(base.names())}"
    return RecipeError(f"{label}.stage: there is no stage {stage!r}", where=where, fix=fix)


def _plugin_families() -> set[str]:
    """The families of registered stages, which other packages may add to."""
    return {name.partition(".")[0] for name in base.names()} - {LOAD, VALIDATE}


def _check_names(steps: Iterable[Step], place: KeyPath) -> None:
    """Raises RecipeError for a name that no node may have, and for `from` a node that is not there."""
    steps = tuple(steps)
    valid = (LOAD, *(step.name for step in steps))
    label = ".".join(map(str, place))
    for step in steps:
        if not NAME.fullmatch(step.name):
            fix = "use small letters, digits, - and _"
            raise RecipeError(
                f"{label}: {step.name!r} cannot be the name of a node", where=step.origin, fix=fix
            )
        for name, source in step.takes.items():
            require_node(source, valid, f"{label}.{step.name}.{FROM}", step.place(name))


def require_node(name: str, valid: Sequence[str], label: str, where: str) -> None:
    """Raises RecipeError, with the nearest name, for a node that the recipe does not have."""
    if name not in valid:
        guess = nearest(name, valid)
        fix = f"did you mean {guess}?" if guess else f"nodes are {', '.join(valid)}"
        raise RecipeError(f"{label}: there is no node {name!r}", where=where, fix=fix)


def in_order(steps: Sequence[Step]) -> Iterator[Step]:
    """The nodes after those that they take, as near to the written order as that allows."""
    sorter = TopologicalSorter({step.name: set(step.takes.values()) - {LOAD} for step in steps})
    try:
        sorter.prepare()
    except CycleError as error:
        raise _circle(steps, error.args[1][::-1]) from None
    named = {step.name: step for step in steps}
    waiting: list[Step] = []
    while sorter.is_active():
        waiting = sorted([*waiting, *(named[name] for name in sorter.get_ready())], key=steps.index)
        step = waiting.pop(0)
        sorter.done(step.name)
        yield step


def _circle(steps: Sequence[Step], circle: Sequence[str]) -> RecipeError:
    """The error for nodes of which each takes the next, the last one the first."""
    first = next(step for step in steps if step.name in circle)
    turn = circle.index(first.name)
    names = [*circle[turn:-1], *circle[:turn], first.name]
    what = f"stages: {names[0]} takes {', which takes '.join(names[1:])}"
    place = next(first.place(name) for name, source in first.takes.items() if source == names[1])
    return RecipeError(what, where=place, fix=f"let one of them take a node outside the circle: {FROM}: NODE")
