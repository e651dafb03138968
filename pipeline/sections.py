"""The sections of a recipe as settings: measure and gates, for every target or for one.

Each value becomes one :class:`Setting` with the file and the line where it was written; whether a parameter
exists and what it may be is for its stage to say, when the graph is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..artifacts.schema import unknown_name
from ..targets.rules import Setting
from .layers import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..artifacts.yaml import KeyPath, Written


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
