"""Keys: the SHA-256 of everything that can change a node's output, and of nothing else.

In it: the stage's name and version and the digest of the source it runs; its parameters, with defaults
filled in; the content of its data files; the digests of its inputs; the versions of Python (its minor
release) and of the libraries that the stage declares; the seed; for stages whose last bits follow the
processor, its instruction sets; for stages that measure this very machine, its fingerprint. Not in it:
paths, times, host names, thread counts that do not change the output, the log level.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts import schema
from ..artifacts.digest import digest_json
from ..artifacts.errors import DataError
from ..stages import base
from ..stages.model import families
from .sources import closure, source_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..artifacts.store import Store
    from ..targets.host import Host
    from .graph import Node

KEY_SCHEMA = "ingot/key/v1"


def preimage(
    node: Node, inputs: Mapping[str, str | None], data: Mapping[str, object], host: Host
) -> dict[str, object]:
    """What the key of ``node`` is the digest of.

    inputs: input name → artifact digest, None while it is not known (then this is for explaining only).
    data: name → digest of what it reads, see :func:`data_digests`.
    """
    stage = base.get(node.stage)
    params = schema.to_plain(node.params, key_only=True)
    return {
        "schema": KEY_SCHEMA,
        "stage": stage.name,
        "version": stage.version,
        "source": source_digest(stage.module),
        "determinism": stage.determinism,
        "params": {name: value for name, value in params.items() if name not in data},
        "data": dict(data),
        "inputs": {name: inputs.get(name) for name in sorted(node.inputs)},
        "tools": {**tool_versions(stage), **(stage.versions(node.params) if stage.versions else {})},
        "platform": {} if stage.determinism == "bitwise" else host.facets(),
        "host": host.fingerprint() if stage.host_bound else None,
        "seed": node.seed,
    }


def key_of(preimage: Mapping[str, object]) -> str:
    """The key: SHA-256 of the preimage's canonical JSON."""
    return digest_json(preimage)


def tool_versions(stage: base.Stage[Any]) -> dict[str, str | None]:
    """The versions of Python and of the libraries that a stage declares; None for one that is not here.

    To a stage that reads architectures belong the distributions that add families of them.
    """
    versions: dict[str, str | None] = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in stage.tools:
        versions[name] = installed_version(name)
    if families.__name__ in closure(stage.module):
        versions.update(families.plugin_versions())
    return versions


@functools.cache
def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def data_digests(node: Node, store: Store) -> dict[str, object]:
    """Content digests of what a node reads beside its inputs: its file parameters, and its stage's own files.

    A list of files has a list of digests, None stays None. Raises DataError for a file that cannot be read.
    """
    digests: dict[str, object] = {}
    for name, field in schema.fields(type(node.params)).items():
        if field.metadata.get("is_file"):
            digests[name] = _digest_of(getattr(node.params, field.name), store)
    reads = base.get(node.stage).reads
    if reads is not None:
        digests.update({name: store.file_digest(path) for name, path in reads(node.params).items()})
    return digests


def check_unchanged(node: Node, preimage: Mapping[str, object], store: Store) -> None:
    """Raises DataError when a file that a key was made of is another one by now.

    What was built then belongs to no key: recorded, it would be served for files that it is not of.
    """
    before = preimage.get("data")
    if isinstance(before, dict) and (now := data_digests(node, store)) != before:
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        raise DataError(
            f"{names[0]} changed while {node.name} was built from it",
            fix="run again, and leave it alone meanwhile",
        )


def _digest_of(value: object, store: Store) -> object:
    if value is None:
        return None
    if isinstance(value, tuple):
        return [_digest_of(item, store) for item in value]
    return store.file_digest(Path(str(value)))
