"""The sections of a recipe as settings: stages, measure and gates, for every target or for one.

Each value becomes one :class:`Setting` with the file and the line where it was written; whether a parameter
exists and what it may be is for its stage to say, when the graph is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..artifacts.schema import unknown_name
from ..stages import base as stages
from ..targets.profile import STAGE_SECTIONS
from ..targets.rules import Setting
from .layers import METHOD, NONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..artifacts.yaml import KeyPath, Written

SHARED_FAMILIES = ("merge", "fuse", "prune", "distill", "factor", "share")


def stage_settings(
    tree: Mapping[str, object], written: Written, place: KeyPath = ("stages",)
) -> Iterator[Setting]:
    """Each family's method and parameters; a word alone is the method."""
    for family, value in tree.items():
        where = written.where(*place, family)
        if family not in (*STAGE_SECTIONS, *SHARED_FAMILIES) and family not in _plugin_families():
            valid = (*SHARED_FAMILIES, *STAGE_SECTIONS)
            raise unknown_name(family, valid, prefix=".".join(map(str, place)), where=where)
        if isinstance(value, str):
            yield Setting((family, METHOD), value, where)
        elif isinstance(value, dict):
            if "stage" in value:
                fix = f"write {family}: {{method: ..., parameters}}"
                raise RecipeError(f"{family}: the long form of stages is not built yet", where=where, fix=fix)
            for name, item in value.items():
                yield Setting((family, name), item, written.where(*place, family, name))
        else:
            fix = f"write {family}: {{method: ..., parameters}}, or {family}: {NONE}"
            raise RecipeError(f"{family}: {value!r} is not a method or a mapping", where=where, fix=fix)


def _plugin_families() -> set[str]:
    """The families of registered stages, which other packages may add to."""
    return {name.partition(".")[0] for name in stages.names()} - {"load", "validate"}


def tree_settings(
    tree: Mapping[str, object], written: Written, place: KeyPath, valid: Sequence[str]
) -> Iterator[Setting]:
    """The parameters of sections that have no method, such as those of `measure:`."""
    for section, values in tree.items():
        label = ".".join(map(str, place))
        if section not in valid:
            raise unknown_name(section, valid, prefix=label, where=written.where(*place, section))
        if not isinstance(values, dict):
            what = f"{label}.{section}: {values!r} is not a mapping of parameters"
            raise RecipeError(what, where=written.where(*place, section))
        for name, value in values.items():
            yield Setting((section, name), value, written.where(*place, section, name))


def gate_settings(tree: Mapping[str, object], written: Written, place: KeyPath) -> Iterator[Setting]:
    """Each metric's rules; the word `none` takes the weaker gates on that metric away."""
    for metric, rules in tree.items():
        where = written.where(*place, metric)
        if rules == NONE:
            yield Setting(("gates", metric), NONE, where)
        elif isinstance(rules, dict) and rules:
            for rule, limit in rules.items():
                yield Setting(("gates", metric, rule), limit, written.where(*place, metric, rule))
        else:
            what = f"gates.{metric}: {rules!r} is not a mapping such as {{max_increase: 2%}}"
            raise RecipeError(what, where=where, fix=f"or {metric}: {NONE} to have no gate on it")
