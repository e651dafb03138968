"""One stored tree, checked against its own record: the right files, nothing else, and their bytes."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from .digest import digest_bytes, digest_file
from .errors import CorruptError, StoreError
from .files import check_relative
from .manifest import ARTIFACT_SCHEMA, ArtifactRecord
from .stats import Signature, signature

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD = "artifact.json"
PAYLOAD = "payload"


class ForeignError(StoreError):
    """A record was written by another version of Ingot; it is not damaged, but cannot be read here."""


def read_record(tree: Path, digest: str) -> ArtifactRecord:
    """The record of the tree called ``digest``.

    Raises CorruptError when its bytes are not the ones the digest names, ForeignError for another schema.
    """
    try:
        data = (tree / RECORD).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise CorruptError(f"{RECORD} is missing", where=str(tree)) from None
    if digest_bytes(data) != digest:
        raise CorruptError(f"{RECORD} is not the one this tree is named by", where=str(tree))
    try:
        value = json.loads(data)
        schema = str(value["schema"])
        record = ArtifactRecord.from_json(value) if schema == ARTIFACT_SCHEMA else None
        for file in record.files if record else ():
            check_relative(file.path)
    except (ValueError, TypeError, KeyError, StoreError) as error:
        raise CorruptError(f"{RECORD} cannot be read: {error}", where=str(tree)) from error
    if record is None:
        raise ForeignError(f"the artifact has the schema {schema}, not {ARTIFACT_SCHEMA}", where=str(tree))
    return record


def regular_files(payload: Path) -> dict[str, os.stat_result]:
    """Every file below ``payload`` by POSIX path.

    Raises CorruptError for a symlink, a hard link (onnx refuses both) and anything else that is not a file.
    """
    if payload.is_symlink():
        raise CorruptError(f"{payload.name} is a symbolic link", where=str(payload))
    found: dict[str, os.stat_result] = {}
    pending = [(payload, "")]
    while pending:
        directory, prefix = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                name = f"{prefix}{entry.name}"
                if stat.S_ISDIR(status.st_mode):
                    pending.append((Path(entry.path), f"{name}/"))
                elif not stat.S_ISREG(status.st_mode):
                    raise CorruptError(f"{name} is not a regular file", where=str(payload))
                elif status.st_nlink != 1:
                    raise CorruptError(f"{name} has {status.st_nlink} hard links", where=str(payload))
                else:
                    found[name] = status
    return found


def check(tree: Path, record: ArtifactRecord, known: Mapping[str, Signature]) -> dict[str, Signature]:
    """The signatures of a sound tree's files.

    Files whose signature is in ``known`` are not hashed again. Raises CorruptError that names the first
    difference: a missing, extra or odd file, another size, other bytes.
    """
    payload = tree / PAYLOAD
    try:
        found = regular_files(payload)
        expected = {file.path: file for file in record.files}
        for name in sorted(expected.keys() ^ found.keys()):
            state = "missing" if name in expected else "not in the record"
            raise CorruptError(f"{name} is {state}", where=str(tree))
        for name, file in expected.items():
            if found[name].st_size != file.size:
                raise CorruptError(
                    f"{name} has {found[name].st_size} bytes, not {file.size}", where=str(tree)
                )
            if signature(found[name]) != known.get(name) and digest_file(payload / name) != file.sha256:
                raise CorruptError(f"{name} does not have the recorded SHA-256", where=str(tree))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptError(f"{error.filename} is missing", where=str(tree)) from error
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CorruptError(
            f"{error.filename or tree} cannot be read from the disk", where=str(tree)
        ) from error
    return {name: signature(status) for name, status in found.items()}
