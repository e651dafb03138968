"""Which files of a source are loaded, and that each is a plain file of that source."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError, nearest
from ..model.checkpoint import (
    ARCHIVE_SUFFIXES,
    PICKLED,
    SAFETENSORS,
    SIDECAR_FILES,
    WeightLayout,
    present,
    read_index,
    weight_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# What archives begin with: zip, gzip, bzip2, xz, zstandard, 7z, rar. A tar says so at byte 257.
ARCHIVE_MAGIC = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
TAR_MAGIC = slice(257, 262), b"ustar"


def source_files(directory: Path, *, allow_pickle: bool = False) -> dict[str, Path]:
    """What `load` reads, by name: config, tokenizer, weights, licence; nothing else there matters.

    allow_pickle: pickled weights may be read where there are no safetensors. Raises IntakeError for a
    directory that does not exist or holds no weights, and for a file that is not plain, is a symlink to
    somewhere outside of the source, or has a twin whose name differs in letter case alone.
    """
    check_directory(directory)
    root = source_root(directory).resolve()
    layout = weight_layout(directory, allow_pickle=allow_pickle)
    sidecars = present(directory, SIDECAR_FILES)
    for path in present(directory, (layout.index,)):
        check_inside(path, root)
    index = read_index(directory, layout)
    index_files = () if index is None else (directory / layout.index,)
    paths = (*sidecars, *index_files, *weight_files(directory, index, layout))
    for path in paths:
        check_inside(path, root)
    check_case(directory, {path.name for path in paths})
    return {path.name: path for path in paths}


def weight_layout(directory: Path, *, allow_pickle: bool) -> WeightLayout:
    """Where a source's weights are: in safetensors, unless only pickles are there and may be read."""
    pickled_alone = PICKLED.is_in(directory) and not SAFETENSORS.is_in(directory)
    return PICKLED if allow_pickle and pickled_alone else SAFETENSORS


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
        raise not_a_directory(directory) from None
    except OSError as error:
        raise IntakeError(f"the model cannot be read: {error.strerror}", where=str(directory)) from error


def not_a_directory(path: Path) -> IntakeError:
    """Why a path that is no directory cannot be loaded, and what to give instead."""
    if is_archive(path):
        what, fix = "the model is an archive, and archives are not read", "unpack it and give the directory"
    else:
        what, fix = "the model is a file, not a directory", f"give its directory, {path.parent}"
    return IntakeError(what, where=str(path), fix=fix)


def is_archive(path: Path) -> bool:
    """Whether a path that is no directory is an archive, by its name or its first bytes.

    A file of weights that torch saved is a zip file too; what it is called tells it from an archive.
    """
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return True
    if not path.is_file() or path.suffix in (PICKLED.suffix, ".pt", ".pth", ".ckpt"):
        return False
    with path.open("rb") as stream:
        head = stream.read(512)
    place, magic = TAR_MAGIC
    return head.startswith(ARCHIVE_MAGIC) or head[place] == magic


def source_root(directory: Path) -> Path:
    """Where a source's symlinks may lead: itself or, for a snapshot in the hub's cache, its repository there.

    That cache is laid out as models--org--name/{snapshots/<commit>,blobs}, and snapshots link to blobs.
    """
    repository = directory.parent.parent
    is_snapshot = directory.parent.name == "snapshots" and repository.name.startswith("models--")
    return repository if is_snapshot else directory


def check_inside(path: Path, root: Path) -> None:
    """Raises IntakeError unless ``path`` is, or links to, a plain file below ``root``, a resolved path."""
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
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise IntakeError(
            f"{path.name} is setuid or setgid, as no data is",
            where=str(path),
            fix=f"ask where it is from; `chmod ug-s {path.name}` takes the bits off",
        )


def check_case(directory: Path, names: Iterable[str]) -> None:
    """Raises IntakeError for a file with the name of one of ``names`` in other letters' case.

    Which of the two another system would take, nobody can say.
    """
    wanted = {name.casefold(): name for name in names}
    for path in directory.iterdir():
        name = wanted.get(path.name.casefold(), path.name)
        if name != path.name:
            raise IntakeError(
                f"{name} and {path.name[:80]!r} are one file where letter case does not count",
                where=str(directory),
                fix="remove the one that does not belong to the model",
            )
