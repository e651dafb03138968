"""Finds the checkpoint or the adapter that a recipe names: a directory here, or a name on the hub."""

from __future__ import annotations

from pathlib import Path

from ..artifacts.errors import RecipeError, nearest
from ..stages.load.files import is_archive, not_a_directory
from ..stages.load.hub import HUB_NAME

CHECKPOINT = "config.json, tokenizer and safetensors"
ADAPTER = "adapter_config.json and adapter_model.safetensors"


def find_model(name: str, directory: Path, label: str, where: str, holds: str = CHECKPOINT) -> str:
    """The absolute path of a local checkpoint or adapter, or the name on the hub as it is.

    label: how the value is called in messages.  holds: what its directory has, for messages too.  Raises
    RecipeError for a path that is no directory.
    """
    hint = f"name a directory with {holds}, or org/name@revision on the hub"
    if not name:
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
    fix = f"did you mean {path.parent / sibling}?" if sibling else hint
    raise RecipeError(f"{label}: {name!r} does not exist", where=where, fix=fix)
