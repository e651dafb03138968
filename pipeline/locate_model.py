"""Finds the checkpoint that a recipe names: a directory of this machine, or a name on the hub."""

from __future__ import annotations

from pathlib import Path

from ..artifacts.errors import RecipeError, nearest
from ..stages.load.files import is_archive, not_a_directory
from ..stages.load.hub import HUB_NAME


def find_model(name: str, directory: Path, label: str, where: str) -> str:
    """The absolute path of a local checkpoint, or the name on the hub as it is.

    label: how the value is called in messages.  Raises RecipeError for a path that is no directory.
    """
    if not name:
        hint = "name a checkpoint directory, or org/name@revision on the hub"
        raise RecipeError(f"{label}: the name is empty", where=where, fix=hint)
    path = (directory / Path(name).expanduser()).absolute()
    if path.is_dir():
        return str(path)
    if HUB_NAME.fullmatch(name) and not path.exists():
        return name
    if path.exists():
        what = "is an archive, and archives are not read" if is_archive(path) else "is not a directory"
        raise RecipeError(f"{label}: {name!r} {what}", where=where, fix=not_a_directory(path).fix)
    sibling = nearest(path.name, [each.name for each in path.parent.glob("*")])
    fix = f"did you mean {path.parent / sibling}?" if sibling else None
    raise RecipeError(
        f"{label}: {name!r} does not exist",
        where=where,
        fix=fix
        or "name a directory with config.json, tokenizer and safetensors, or org/name@revision on the hub",
    )
