"""What a worker is told and what it answers: `job.json` in, `result.json` out, both in the job's directory.

They are files, so that the same worker runs under any executor that shares the store, and so that an answer
outlives the process that gave it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..artifacts import errors
from ..artifacts.errors import CorruptError, IngotError
from ..artifacts.files import storage, write_whole
from ..artifacts.manifest import Json

JOB = "job.json"
RESULT = "result.json"
SCRATCH = "scratch"
JOB_SCHEMA = "ingot/job/v1"
RESULT_SCHEMA = "ingot/result/v1"


@dataclass(frozen=True)
class Job:
    """One node to be run, with everything a process that knows nothing else needs.

    node, stage: their names.  params: plain values of the stage's parameter class.  inputs: input name →
    artifact digest.  store: the store's root.  directory: this job's own, kept until its output is recorded.
    log: where everything the process prints goes.  cores: the threads it may start.  memory_bytes: its bound.
    module: where the stage is defined, when that is known.
    """

    node: str
    stage: str
    params: Json
    inputs: Mapping[str, str]
    key: str
    store: Path
    directory: Path
    log: Path
    seed: int
    cores: int
    memory_bytes: int
    module: str | None = None

    @property
    def scratch(self) -> Path:
        """The directory a stage may use; what it leaves there the next run of the same key finds."""
        return self.directory / SCRATCH

    def write(self) -> None:
        """Writes `job.json` and removes the answer of an earlier try; raises StoreError when it cannot."""
        with storage(self.directory):
            self.scratch.mkdir(exist_ok=True)
            (self.directory / RESULT).unlink(missing_ok=True)
        value = {**asdict(self), "schema": JOB_SCHEMA}
        value.update({name: str(value[name]) for name in ("store", "directory", "log")})
        _replace(self.directory / JOB, value)

    @staticmethod
    def read(directory: Path) -> Job:
        """The job in ``directory``; raises CorruptError when there is none that can be read."""
        value = _load(directory / JOB, JOB_SCHEMA)
        del value["schema"]
        paths = {name: Path(str(value[name])) for name in ("store", "directory", "log")}
        return Job(**{**value, **paths})  # type: ignore[arg-type]


@dataclass(frozen=True)
class JobResult:
    """What became of a job: an artifact's digest, or the error that prevented one.

    observed: what the stage observed.  notes: what the report must state.  tools: the versions of the
    libraries the stage declares.  max_rss_bytes: the most the process or a child of it had resident.
    """

    artifact: str | None
    error: IngotError | None = None
    observed: Json = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    max_rss_bytes: int = 0

    def write(self, directory: Path) -> None:
        """Writes `result.json` whole or not at all; raises StoreError when it cannot."""
        value = {
            "schema": RESULT_SCHEMA,
            "artifact": self.artifact,
            "error": errors.to_json(self.error) if self.error else None,
            "observed": dict(self.observed),
            "notes": list(self.notes),
            "tools": dict(self.tools),
            "max_rss_bytes": self.max_rss_bytes,
        }
        _replace(directory / RESULT, value)

    @staticmethod
    def read(directory: Path) -> JobResult | None:
        """The answer in ``directory``; None when there is none, for it appears whole or not at all."""
        path = directory / RESULT
        if not path.exists():
            return None
        value = _load(path, RESULT_SCHEMA)
        error = value["error"]
        return JobResult(
            value["artifact"],  # type: ignore[arg-type]
            errors.from_json(error) if isinstance(error, dict) else None,
            value["observed"],  # type: ignore[arg-type]
            tuple(value["notes"]),  # type: ignore[arg-type]
            value["tools"],  # type: ignore[arg-type]
            value["max_rss_bytes"],  # type: ignore[arg-type]
        )


def _replace(path: Path, value: object) -> None:
    """Writes a file whole or not at all, without waiting for the disk.

    A machine that goes down takes the job with it, and the next run writes both files anew.
    """
    with storage(path):
        write_whole(path, json.dumps(value, ensure_ascii=False, allow_nan=False))


def _load(path: Path, schema: str) -> dict[str, object]:
    with storage(path):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptError(f"{path.name} of a job cannot be read", where=str(path)) from error
    if not isinstance(value, dict) or value.get("schema") != schema:
        raise CorruptError(f"{path.name} of a job is not {schema}", where=str(path))
    return value
