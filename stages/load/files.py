"""Which files of a source are loaded, and that each is a plain file of that source."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError, nearest
from ..model.checkpoint import INDEX_FILE, SIDECAR_FILES, present, read_index, weight_files

if TYPE_CHECKING:
    from pathlib import Path


def source_files(directory: Path) -> dict[str, Path]:
    """What `load` copies, by name: config, tokenizer, weights, licence; nothing else there matters.

    Raises IntakeError for a directory that does not exist or holds no weights, and for a file that is not
    plain or is a symlink to somewhere outside of the source.
    """
    check_directory(directory)
    root = source_root(directory).resolve()
    sidecars = present(directory, SIDECAR_FILES)
    for path in present(directory, (INDEX_FILE,)):
        check_inside(path, root)
    index = read_index(directory)
    index_files = () if index is None else (directory / INDEX_FILE,)
    paths = (*sidecars, *index_files, *weight_files(directory, index))
    for path in paths:
        check_inside(path, root)
    return {path.name: path for path in paths}


def check_directory(directory: Path) -> None:
    """Raises IntakeError for a path that is not a directory, with the sibling that was probably meant."""
    try:
        next(directory.iterdir(), None)
    except FileNotFoundError:
        parent = directory.parent
        siblings = (path.name for path in parent.iterdir()) if parent.is_dir() else ()
        guess = nearest(directory.name, siblings)
        hint = f"did you mean {parent / guess}?" if guess else "for one on the hub, write org/name@revision"
        raise IntakeError("the model does not exist", where=str(directory), fix=hint) from None
    except NotADirectoryError:
        hint = f"give its directory, {directory.parent}"
        raise IntakeError("the model is a file, not a directory", where=str(directory), fix=hint) from None
    except OSError as error:
        raise IntakeError(f"the model cannot be read: {error.strerror}", where=str(directory)) from error


def source_root(directory: Path) -> Path:
    """Where a source's symlinks may lead: itself or, for a snapshot in the hub's cache, its repository there.

    That cache is laid out as models--org--name/{snapshots/<commit>,blobs}, and snapshots link to blobs.
    """
    repository = directory.parent.parent
    is_snapshot = directory.parent.name == "snapshots" and repository.name.startswith("models--")
    return repository if is_snapshot else directory


def check_inside(path: Path, root: Path) -> None:
    """Raises IntakeError unless ``path`` is, or links to, a regular file below ``root``, a resolved path."""
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its symlinks form a loop"
        raise IntakeError(f"{path.name} cannot be read: {reason}", where=str(path)) from error
    if not target.is_relative_to(root):
        raise IntakeError(
            f"{path.name} is a symlink out of the checkpoint, to {target}",
            where=str(path),
            fix="replace the symlink by the file if you trust it",
        )
    if not stat.S_ISREG(mode):
        raise IntakeError(f"{path.name} is not a regular file", where=str(path))
