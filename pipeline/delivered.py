"""What a target ships beside its own artifact: each is a target of its own, built from the same weights.

    targets: {nvidia: {delivers: {engine: tensorrt, packed: {method: checkpoint, layout: gptq}, aoti: none}}}

The one called `engine` is the leaf `nvidia-engine`: measured, gated and delivered under that name. Where its
exporter takes what another one writes, that is the target's own export. A person who names the method of a
target's export wants that alone, and what else they name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..targets import profile as profiles
from ..targets.profile import DELIVERS
from ..targets.rules import Setting
from .layers import METHOD, NONE, names_target
from .steps import NAME
from .trunk import EXPORT

if TYPE_CHECKING:
    from ..targets.rules import Facts
    from .recipe import Recipe
    from .recipe_targets import Target


def delivered(recipe: Recipe, target: Target, facts: Facts) -> Iterator[Target]:
    """The target, then what it ships beside its artifact, as targets.

    Raises RecipeError for a name or a method that is none, and for a name that another target has.
    """
    yield target
    chosen = profiles.get(target.profile, target.origin).chosen(facts)
    asked = [setting for rule in chosen for setting in rule.settings]
    if _names_method(recipe, target):
        asked = []
    named = {each.path[1]: each for each in (*asked, *target.settings) if each.path[0] == DELIVERS}
    taken = {each.name for each in recipe.targets}
    for name, setting in named.items():
        if setting.value == NONE:
            continue
        full = f"{target.name}-{name}"
        if not NAME.fullmatch(name) or full in taken:
            what = f"targets.{target.name}.{DELIVERS}: {name!r} cannot name an artifact"
            fix = "use small letters, digits, - and _, and a name that no other target has"
            raise RecipeError(what, where=setting.origin, fix=fix)
        own = [each for each in target.settings if each.path[0] not in (EXPORT, DELIVERS)]
        via = [each for each in (*recipe.settings, *target.settings) if each.path[0] == EXPORT]
        yield replace(
            target, name=full, settings=(*own, *_export(target, name, setting)), via=tuple(via), matrix=()
        )


def _names_method(recipe: Recipe, target: Target) -> bool:
    """Whether a person says how the target is exported."""
    outer = [o.setting for o in recipe.overrides if o.target is None or names_target(o.target, target.name)]
    paths = {each.path for each in (*recipe.settings, *target.settings, *outer)}
    return (EXPORT, METHOD) in paths


def _export(target: Target, name: str, setting: Setting) -> Iterator[Setting]:
    """What one entry says of its export."""
    value = setting.value if isinstance(setting.value, Mapping) else {METHOD: setting.value}
    if not isinstance(value.get(METHOD), str):
        what = f"targets.{target.name}.{DELIVERS}.{name}: {setting.value!r} names no method of {EXPORT}"
        raise RecipeError(what, where=setting.origin, fix="write {name: method}, or {name: {method: ...}}")
    for key, each in value.items():
        yield Setting((EXPORT, str(key)), each, setting.origin)
