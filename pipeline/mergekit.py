"""A mergekit file in place of a recipe: its merge, built for targets and held against a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..artifacts.yaml import Written
from .locate_model import find_model

if TYPE_CHECKING:
    from collections.abc import Mapping

METHOD_KEY, BASE_KEY = "merge_method", "base_model"
FORMS = ("models", "slices", "modules")
ADAPTER_SIGN = "+"


def is_mergekit(written: Written) -> bool:
    """Whether a document is a mergekit configuration and no recipe."""
    value = written.value
    if not isinstance(value, dict) or "model" in value or "stages" in value:
        return False
    return METHOD_KEY in value or any(form in value for form in FORMS)


def recipe_values(written: Written, path: Path, beside: Mapping[str, object]) -> Written:
    """What a recipe would say that has the file at ``path`` as its only stage.

    beside: its other keys. `model`, what quality is compared with, is the file's base model where it is not
    among them.  Raises RecipeError when there is neither.
    """
    base = written.value.get(BASE_KEY) if isinstance(written.value, dict) else None
    if isinstance(base, dict):
        base = base.get("model")
    if "model" not in beside and (not isinstance(base, str) or ADAPTER_SIGN in base):
        what = "this mergekit file names no base_model" if base is None else f"{base!r} is no plain model"
        fix = "say what the merged model is compared with: --model DIRECTORY"
        raise RecipeError(what, where=written.where(BASE_KEY), fix=fix)
    if "stages" in beside:
        fix = "write a recipe, with the file as one of its stages: merge: {config: FILE}"
        raise RecipeError("stages were given beside a mergekit file", fix=fix)
    value: dict[str, object] = {"model": base, "stages": {"merge": {"config": path.name}}, **beside}
    if "model" in beside:
        value["model"] = find_model(str(beside["model"]), Path.cwd(), "model", "command line")
    if isinstance(texts := beside.get("data"), dict):
        value["data"] = {role: _absolute(names) for role, names in texts.items()}
    return Written(value, written.source)


def _absolute(names: object) -> object:
    """The paths of a role's text, or texts, from the working directory."""
    if isinstance(names, list | tuple):
        return [_absolute(name) for name in names]
    return str(Path.cwd() / Path(str(names)).expanduser())
