"""The records of the store: what an artifact is, and what made it.

`artifact.json` is identity alone: nothing in it depends on when or where it was made, so two machines agree
on a digest. `actions/<key>.json` says how a key led to an artifact and what was observed on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .digest import digest_json

ARTIFACT_SCHEMA = "ingot/artifact/v1"
ACTION_SCHEMA = "ingot/action/v1"
Json = Mapping[str, object]


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact: POSIX path relative to the payload, size in bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ArtifactRecord:
    """The identity of an artifact; its digest is the SHA-256 of its canonical JSON."""

    kind: str
    files: tuple[FileRecord, ...]
    facts: Json

    def to_json(self) -> dict[str, object]:
        """The content of `artifact.json`; files are sorted by path."""
        files = sorted(self.files, key=lambda record: record.path)
        return {
            "schema": ARTIFACT_SCHEMA,
            "kind": self.kind,
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in files],
            "facts": dict(self.facts),
        }

    @staticmethod
    def from_json(value: Json) -> ArtifactRecord:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError for another shape."""
        if value["schema"] != ARTIFACT_SCHEMA:
            raise ValueError(f"schema {value['schema']!r} is not {ARTIFACT_SCHEMA!r}")
        files, facts = value["files"], value["facts"]
        if not isinstance(files, list) or not isinstance(facts, dict):
            raise TypeError("files must be a list and facts a mapping")
        records = tuple(FileRecord(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in files)
        return ArtifactRecord(str(value["kind"]), records, facts)

    @property
    def digest(self) -> str:
        """The artifact's name in the store."""
        return digest_json(self.to_json())

    @property
    def size_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(record.size for record in self.files)


@dataclass(frozen=True)
class Artifact:
    """An artifact where it lies: its digest, its record and the directory that holds its files."""

    digest: str
    record: ArtifactRecord
    path: Path

    @property
    def kind(self) -> str:
        """What sort of thing it is, such as `checkpoint` or `onnx`."""
        return self.record.kind

    @property
    def facts(self) -> Json:
        """What is known of it without opening its files."""
        return self.record.facts


@dataclass(frozen=True)
class Action:
    """How a key led to an artifact.

    preimage: what the key is the SHA-256 of.  observed: run, started and finished (ISO 8601, UTC), seconds,
    cpu_seconds, max_rss_bytes, exit, log digest, notes, divergence.
    """

    key: str
    node: str
    preimage: Json
    output: str
    observed: Json = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The content of `actions/<key>.json`."""
        return {
            "schema": ACTION_SCHEMA,
            "key": self.key,
            "node": self.node,
            "preimage": dict(self.preimage),
            "output": self.output,
            "observed": dict(self.observed),
        }

    @staticmethod
    def from_json(value: Json) -> Action:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError for another shape."""
        if value["schema"] != ACTION_SCHEMA:
            raise ValueError(f"schema {value['schema']!r} is not {ACTION_SCHEMA!r}")
        preimage, observed = value["preimage"], value["observed"]
        if not isinstance(preimage, dict) or not isinstance(observed, dict):
            raise TypeError("preimage and observed must be mappings")
        return Action(str(value["key"]), str(value["node"]), preimage, str(value["output"]), observed)
