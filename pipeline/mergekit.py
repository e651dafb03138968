"""A mergekit file in place of a recipe: its merge, built for targets and held against a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..artifacts.yaml import Written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

METHOD_KEY, BASE_KEY = "merge_method", "base_model"
FORMS = ("models", "slices", "modules")
ADAPTER_SIGN = "+"


def is_mergekit(written: Written) -> bool:
    """Whether a document is a mergekit configuration and no recipe."""
    value = written.value
    if not isinstance(value, dict) or "model" in value or "stages" in value:
        return False
    return METHOD_KEY in value or any(form in value for form in FORMS)


def recipe_values(
    written: Written,
    path: Path,
    model: str | None,
    targets: Sequence[str],
    data: Mapping[str, str],
) -> Written:
    """What a recipe would say that has the file at ``path`` as its only stage.

    model: what quality is compared with; the file's base model when None.  Raises RecipeError when there is
    neither.
    """
    base = written.value.get(BASE_KEY) if isinstance(written.value, dict) else None
    if isinstance(base, dict):
        base = base.get("model")
    if model is None and (not isinstance(base, str) or ADAPTER_SIGN in base):
        what = "this mergekit file names no base_model" if base is None else f"{base!r} is no plain model"
        fix = "say what the merged model is compared with: --model DIRECTORY"
        raise RecipeError(what, where=written.where(BASE_KEY), fix=fix)
    value: dict[str, object] = {
        "model": model if model is not None else str(base),
        "stages": {"merge": {"config": path.name}},
    }
    if targets:
        value["targets"] = list(targets)
    if data:
        value["data"] = dict(data)
    return Written(value, written.source)
