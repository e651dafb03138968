"""A stage's parameters from layered settings: the stage a method names, its values, where each is from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.errors import RecipeError, nearest
from ..artifacts.schema import build, fields, takes_many
from ..stages import base
from .data import BUNDLED_ORIGIN, EVALUATION, ROLES, Data, located
from .layers import METHOD

if TYPE_CHECKING:
    from ..targets.rules import Setting

VALIDATE = "validate"


@dataclass(frozen=True)
class Choice:
    """A stage with its parameters. origins: parameter → where its value is from, defaults left out.

    roles: the kinds of text that it reads.
    """

    stage: base.Stage[Any]
    params: object
    origins: Mapping[str, str]
    roles: tuple[str, ...]


def find_stage(family: str, method: Setting) -> base.Stage[Any]:
    """The stage of a family that a `method` setting names; raises RecipeError with the nearest method."""
    name = f"{family}.{method.value}"
    if name in base.BUILTIN or name in base.names():
        return base.get(name)
    methods = [each.partition(".")[2] for each in base.names() if each.startswith(f"{family}.")]
    guess = nearest(str(method.value), methods)
    fix = f"did you mean {guess}?" if guess else f"methods are {', '.join(methods)}"
    raise RecipeError(f"{family}.method: there is no {method.value!r}", where=method.origin, fix=fix)


def choose(
    stage: base.Stage[Any],
    label: str,
    settings: Mapping[str, Setting],
    data: Data,
    where: str | None = None,
) -> Choice:
    """The parameters that ``settings`` and the recipe's texts give a stage.

    label: how its section is called in messages, such as ``quantize@cpu``.  where: where that is written.
    A file parameter named after a kind of text (`evaluation`, `calibration` ...) takes that text. Raises
    RecipeError for a parameter that the stage lacks, a value that it does not take, and a text that it needs
    and the recipe does not name.
    """
    known = fields(stage.params)
    for name, setting in settings.items():
        if name not in known:
            raise _unknown(stage, label, name, setting)
    values = {name: setting.value for name, setting in settings.items()}
    origins = {name: setting.origin for name, setting in settings.items()}
    roles = [name for name in ROLES if name in known and known[name].metadata["is_file"]]
    for role in roles:
        if role in settings:
            what = f"{label}.{role}: texts are named under data:"
            raise RecipeError(what, where=origins[role], fix=f"write data: {{{role}: ...}}")
        if role == EVALUATION and not stage.name.startswith(f"{VALIDATE}."):
            raise RecipeError(
                f"stage {stage.name} asks for the evaluation text, which only validate may open"
            )
        if takes_many(stage.params, role) and data.texts(role):
            values[role] = [str(path) for path in data.texts(role)]
            origins[role] = data.origins.get(role, BUNDLED_ORIGIN)
        elif (found := data.file(role)) is not None:
            values[role], origins[role] = str(found[0]), found[1]
    for name, value in values.items():
        if known[name].metadata["is_file"] and name not in ROLES:
            values[name] = located(value, f"{label}.{name}", origins.get(name), data)
        if known[name].metadata["is_folder"] and isinstance(value, str):
            values[name] = str(data.directory.absolute() / Path(value).expanduser())
    try:
        params = build(stage.params, values, prefix=label, locate=origins.get)
    except RecipeError as error:
        written = {name: origin for name, origin in origins.items() if name in settings}
        raise _placed(error, label, known, written, where) from None
    return Choice(stage, params, origins, tuple(role for role in roles if role in values))


def _placed(
    error: RecipeError,
    label: str,
    known: Mapping[str, object],
    origins: Mapping[str, str],
    section: str | None,
) -> RecipeError:
    """An error of parameters that do not go together, with the node's name and the line of one of them.

    section: where the node is written, for an error that names none of what is written under it.
    """
    if error.where is not None:
        return error
    where = place(error.what, origins, section)
    what = error.what
    if error.what.partition(":")[0] in known:
        what = f"{label}.{what}"
    elif not what.startswith((f"{label}.", f"{label}:")):
        what = f"{label}: {what}"
    return RecipeError(what, where=where, fix=error.fix)


def place(what: str, origins: Mapping[str, str], section: str | None = None) -> str | None:
    """Where the parameter that a message names first was written.

    origins: of what is written of a node. Of a message that names none of that, where its section is, or
    else what is written first.
    """
    named = (origins[word] for word in re.findall(r"\w+", what) if word in origins)
    return next(named, section or next(iter(origins.values()), None))


def _unknown(stage: base.Stage[Any], label: str, name: str, setting: Setting) -> RecipeError:
    """The error for a parameter that a stage lacks: another method's, or a misspelt one."""
    family = stage.name.partition(".")[0]
    others = _methods_with(name, family, but=stage.name)
    guess = nearest(name, fields(stage.params))
    if others and guess is None:
        fix = f"{others[0]} has it: set {family}.{METHOD} to {others[0].partition('.')[2]} too"
    elif guess is not None:
        fix = f"did you mean {guess}?"
    else:
        fix = f"its parameters are {', '.join(fields(stage.params)) or 'none'}"
    return RecipeError(
        f"{label}.{name}: stage {stage.name} has no such parameter", where=setting.origin, fix=fix
    )


def _methods_with(name: str, family: str, *, but: str) -> list[str]:
    stages: Iterable[str] = (each for each in base.names() if each.startswith(f"{family}.") and each != but)
    return [each for each in stages if name in fields(base.get(each).params)]
