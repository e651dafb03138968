"""Rules of a profile: settings that hold under a condition on the source and the host, with the reason."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..artifacts.errors import RecipeError
from ..artifacts.schema import build, param, unknown_name

if TYPE_CHECKING:
    from ..artifacts.yaml import KeyPath, Written

Facts = Mapping[str, object]
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {"above": operator.gt, "below": operator.lt}

# tensorrt: which of its libraries builds engines here, `tensorrt`, `tensorrt_rtx` or `none`.
CONDITIONS = (
    "task", "architecture", "model_type", "known_family", "parameters_above", "parameters_below",
    "int8_dot_product", "tensorrt",
)  # fmt: skip
# weights: their width.  changed: whether a stage made another network of the reference.
GATE_CONDITIONS = (*CONDITIONS, "weights", "changed")


@dataclass(frozen=True)
class Setting:
    """One value and who gave it. path: section and name, such as ``("quantize", "bits")``."""

    path: tuple[str, ...]
    value: object
    origin: str


@dataclass(frozen=True)
class Rule:
    """Settings under a condition. when: see :func:`holds`; an empty one holds always.

    because: the reason in a few words, empty for what a profile simply states.
    """

    when: Mapping[str, object]
    settings: tuple[Setting, ...]
    because: str = ""


def holds(rule: Rule, facts: Facts) -> bool:
    """Whether every condition holds: `X_above` and `X_below` compare numbers, a list offers alternatives."""
    return all(_holds(name, wanted, facts) for name, wanted in rule.when.items())


def _holds(name: str, wanted: object, facts: Facts) -> bool:
    base, _, comparison = name.rpartition("_")
    if comparison in COMPARISONS:
        return COMPARISONS[comparison](facts[base], wanted)
    return facts[name] in (wanted if isinstance(wanted, list) else [wanted])


@dataclass(frozen=True)
class RuleFields:
    """One item of `rules:` or `gates:` as it is written."""

    when: Mapping[str, object] = param(doc="conditions on the source and the host")
    set: Mapping[str, object] = param(doc="section or metric → name → value")
    because: str = param(doc="say why in a few words: plan and report print it")


def read_rules(
    written: Written, key: str, items: Sequence[Mapping[str, object]], conditions: Sequence[str], profile: str
) -> Iterator[Rule]:
    """The rules listed under ``key``; for gates, settings are put under the section `gates`.

    Raises RecipeError for an unknown condition or a shape other than section → name → value.
    """
    for index, item in enumerate(items):
        place = (key, index)
        locate = functools.partial(written.where, *place)
        fields = build(RuleFields, item, prefix=f"{key}[{index}]", locate=locate)
        for name, wanted in fields.when.items():
            where = written.where(*place, "when", name)
            if name not in conditions:
                raise unknown_name(name, conditions, prefix="when", where=where)
            is_number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
            if name.rpartition("_")[2] in COMPARISONS and not is_number:
                raise RecipeError(f"when.{name}: {wanted!r} is not a number", where=where)
        prefix = ("gates",) if key == "gates" else ()
        settings = tuple(read_settings(written, (*place, "set"), fields.set, prefix, profile))
        yield Rule(dict(fields.when), settings, fields.because)


def read_settings(
    written: Written, at: KeyPath, tree: Mapping[str, object], prefix: tuple[str, ...], profile: str
) -> Iterator[Setting]:
    """Every section → name → value below ``at`` as a setting whose path starts with ``prefix``."""
    for section, values in tree.items():
        if not isinstance(values, Mapping):
            what = f"{section}: {values!r} is not a mapping of names to values"
            raise RecipeError(what, where=written.where(*at, section))
        for name, value in values.items():
            origin = f"profile {profile} ({written.where(*at, section, name)})"
            yield Setting((*prefix, section, str(name)), value, origin)
