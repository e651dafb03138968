"""From a recipe and what is known of its source to the graph: which stages, with which parameters, and why.

    load ─┬─ reference ───────────────────┬─ quality@T
          ├─ export@reference ────────┬───│─ cost@T
          └─ quantize@T ── export@T ──┴───┘

The recipe's own nodes (`trunk.py`) stand between `load` and the targets (`branch.py`). Every parameter's
value comes from the layers (`layers.py`), and its stage says whether it may be.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError, nearest
from ..artifacts.schema import unknown_name
from ..stages.load.hub import resolve as resolve_source
from ..stages.load.intake import inspect_source
from ..stages.load.packed import inspect_packed, is_packed
from ..targets import host as hosts
from ..targets.libraries import tensorrt_library
from ..targets.profile import MEASURE_SECTIONS, SECTIONS, STAGE_SECTIONS
from .branch import Branch
from .data import ROLES
from .delivered import delivered
from .draft import Draft
from .fan import fan_out, wide_axes
from .formats import require_accepted
from .layers import GATES, METHOD, environment_name, names_target
from .outside import is_outside, note
from .pickles import pickles_allowed
from .steps import LOAD
from .trunk import LOAD_QUANTIZED, Trunk
from .weight_patterns import check_trained_patterns, check_weight_patterns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from ..targets.rules import Facts
    from .data import Data
    from .graph import Graph
    from .layers import Override
    from .recipe import Recipe


def graph_of(recipe: Recipe, host: hosts.Host | None = None) -> Graph:
    """The graph of a recipe whose checkpoints are looked at now: found (or fetched), and inspected.

    Raises IntakeError for a source that may not be loaded, InputError for quantized weights that an exporter
    does not take, and what :func:`build_graph` raises.
    """
    pickled = pickles_allowed(recipe)
    directory = resolve_source(recipe.model, allow_pickle=LOAD in pickled).absolute()
    loads = {step.name for step in recipe.steps if step.family == LOAD}
    found: dict[str, Path] = {LOAD: directory}
    for setting in recipe.settings:
        if setting.path[0] in loads and setting.path[1] == "model":
            name = setting.path[0]
            found[name] = resolve_source(str(setting.value), allow_pickle=name in pickled).absolute()
    settings = tuple(
        replace(setting, value=str(found[setting.path[0]]))
        if setting.path[0] in found and setting.path[1] == "model"
        else setting
        for setting in recipe.settings
    )
    facts = {name: _facts(recipe, name, path, pickled) for name, path in found.items()}
    made = build_graph(replace(recipe, model=str(directory), settings=settings), facts[LOAD], host, facts)
    if not is_outside(facts[LOAD]):
        check_weight_patterns(made, found)
        check_trained_patterns(made, found)
        require_accepted(made, found)
    return replace(made, sources=facts)


def _facts(recipe: Recipe, name: str, path: Path, pickled: Collection[str]) -> dict[str, object]:
    """What is known of the checkpoint that the node ``name`` loads; the recipe's model may be quantized, and
    another where its stage is for that.
    """
    stages = {setting.path[0]: setting.value for setting in recipe.settings if setting.path[1] == METHOD}
    if is_packed(path) if name == LOAD else f"{LOAD}.{stages.get(name)}" == LOAD_QUANTIZED:
        return asdict(inspect_packed(path))
    return asdict(inspect_source(path, allow_pickle=name in pickled))


def build_graph(
    recipe: Recipe,
    facts: Facts,
    host: hosts.Host | None = None,
    loaded: Mapping[str, Facts] = MappingProxyType({}),
) -> Graph:
    """The graph of a recipe.

    facts: of the source, from its headers alone: task, architecture, model_type, parameters ... (those that
    the rules of profiles may ask for).  host: where it is built; this machine when None.  loaded: the same as
    facts of every checkpoint, by the node that loads it.  Raises RecipeError
    for an unknown or unused setting or node, a stage that a target does not take, and edges that do not fit.
    """
    host = host or hosts.probe()
    recipe = replace(recipe, overrides=tuple(_known(each, recipe) for each in recipe.overrides))
    known = {
        "int8_dot_product": host.has_int8_dot_product,
        "known_family": not is_outside(facts),
        "tensorrt": tensorrt_library(),
    }
    draft = Draft(recipe.data, recipe.seed, {**facts, **known}, loaded)
    trunk = Trunk(draft, recipe)
    sources = {target.name: target.takes or trunk.last_checkpoint(target) for target in recipe.targets}
    reached = {
        name: trunk.reach(source, recipe.reference) | {*MEASURE_SECTIONS, *trunk.sections(source)}
        for name, source in sources.items()
    }
    trunk.require_used(frozenset().union(*reached.values()))
    _require_effect(recipe, reached)
    leaves = []
    for target in recipe.targets:
        for own, leaf, cell in fan_out(recipe, target, reached[target.name]):
            # The recipe's model comes first: other nodes that load it are it, under another name.
            model = trunk.node(LOAD, cell)
            source, reference = trunk.node(sources[target.name], cell), trunk.plain(recipe.reference, cell)
            for each in delivered(own, leaf, draft.facts):
                leaves.append(Branch(draft, own, each, cell, model, source, reference).grow())  # noqa: PERF401
    notes = _notes(recipe.data, draft.roles)
    return draft.builder.graph(leaves, facts, (*((note(facts),) if is_outside(facts) else ()), *notes))


def _known(override: Override, recipe: Recipe) -> Override:
    """An override with its node's own name; raises RecipeError for a node or target that the recipe lacks."""
    shared = (LOAD, *(step.name for step in recipe.steps))
    setting = override.setting
    if override.source == "environment":
        # Variables have no dashes: INGOT_SET__MY_NODE__BITS means my-node.
        names = {environment_name(name): name for name in shared}
        section = names.get(environment_name(setting.path[0]), setting.path[0])
        setting = replace(setting, path=(section, *setting.path[1:]))
    family, origin = setting.path[0], setting.origin
    if family not in (*shared, *SECTIONS, GATES):
        raise unknown_name(family, (*shared, *SECTIONS, GATES), prefix="", where=origin)
    if override.target is not None:
        if family in shared:
            fix = f"write {family} without @{override.target}"
            raise RecipeError(f"{family} is shared by all targets", where=origin, fix=fix)
        targets = [target.name for target in recipe.targets]
        if not any(names_target(override.target, name) for name in targets):
            guess = nearest(override.target, targets)
            fix = f"did you mean {guess}?" if guess else f"targets are {', '.join(targets)}"
            raise RecipeError(f"the recipe has no target {override.target!r}", where=origin, fix=fix)
    return replace(override, setting=setting)


def _require_effect(recipe: Recipe, reached: Mapping[str, Collection[str]]) -> None:
    """Raises RecipeError for settings and axes that were written for every target and reach none.

    reached: the nodes and sections that each target comes from.
    """
    outer = (override.setting for override in recipe.overrides if override.target is None)
    for setting in (*recipe.settings, *outer):
        section = setting.path[0]
        if section in STAGE_SECTIONS and not any(section in names for names in reached.values()):
            what = f"{'.'.join(setting.path)} has no effect: every target takes a node past {section}"
            raise RecipeError(what, where=setting.origin, fix="take it out, or set it on that node")
    for axis in recipe.matrix:
        if not any(axis in wide_axes(recipe, target, reached[target.name]) for target in recipe.targets):
            fix = "take it out, or let a target take the node"
            raise RecipeError(
                f"matrix.{axis} has no effect: it reaches no target", where=axis.origin, fix=fix
            )


def _notes(data: Data, roles: Collection[str]) -> Iterator[str]:
    """What must be said of the texts: which bundled ones are used, and which given ones are not."""
    for role in ROLES:
        if role in roles and role not in data.files and data.texts(role):
            yield f"the recipe names no {role} text: the bundled one is used"
        elif role in data.files and role not in roles:
            yield f"data.{role} ({data.origins[role]}) is not read by any stage of this recipe"
