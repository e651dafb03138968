"""The child process that runs one node: `python -m ingot.pipeline.worker JOBDIR`.

Its standard output carries events alone, one JSON object a line; whatever the stage and its libraries print
goes to the log, which is its standard error. The end of its standard input means that the driver died, and is
the worker's own end. The answer is `result.json`, written whole, so what killed a worker can never forge one.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..artifacts.digest import canonical_json
from ..artifacts.errors import IngotError, StageError
from . import memory
from .events import Event, Heartbeat, Note, Progress, encode
from .job import Job, JobResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..artifacts.manifest import Artifact
    from ..artifacts.store import Store
    from ..stages.base import Stage

HEARTBEAT_SECONDS = 1.0
# Ten a second is as much as an eye can follow, and costs a stage that reports every token nothing.
PROGRESS_SECONDS = 0.1


class Reporter:
    """Sends a running stage's events to the driver, from any of its threads."""

    def __init__(self, node: str, descriptor: int) -> None:
        self.notes: list[str] = []
        self._node = node
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._next_progress = 0.0

    def progress(self, done: int, total: int, what: str) -> None:
        """Reports progress, at most ten times a second; the last step is always reported."""
        now = time.monotonic()
        if now >= self._next_progress or done == total:
            self._next_progress = now + PROGRESS_SECONDS
            self.send(Progress(self._node, int(done), int(total), str(what)))

    def note(self, text: str) -> None:
        """Keeps a remark for the record and sends it."""
        self.notes.append(text)
        self.send(Note(self._node, text))

    def beat(self) -> NoReturn:
        """Sends what this process holds, once a second, for ever."""
        while True:
            self.send(Heartbeat(self._node, memory.resident_bytes()))
            time.sleep(HEARTBEAT_SECONDS)

    def send(self, event: Event) -> None:
        """Writes one line; a driver that is gone ends this process."""
        line = encode(event)
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                orphaned()


def main(directory: Path) -> int:
    """Runs the job in ``directory`` and answers it; the exit status is 0 for an artifact, else 1."""
    events = take_over_standard_streams()
    prefer_as_victim()
    job = Job.read(directory)
    reporter = Reporter(job.node, events)
    threading.Thread(target=reporter.beat, daemon=True).start()
    result = perform(job, reporter)
    result.write(directory)
    return 0 if result.error is None else 1


def perform(job: Job, reporter: Reporter) -> JobResult:
    """Runs the stage and publishes what it made; whatever it raises becomes the result's error."""
    try:
        return run_stage(job, reporter)
    except IngotError as error:
        return _failed(error, reporter)
    except MemoryError:
        traceback.print_exc()
        fix = "free memory, allow more with --memory, or use a smaller model or batch"
        return _failed(StageError(f"{job.node} ran out of memory", where=str(job.log), fix=fix), reporter)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stage may be anybody's code
        traceback.print_exc()
        message = f"{job.node} failed: {type(error).__name__}: {error}".rstrip(": ")
        fix = f"the traceback is at the end of {job.log}"
        return _failed(StageError(message, where=f"stage {job.stage}", fix=fix), reporter)


def run_stage(job: Job, reporter: Reporter) -> JobResult:
    """The stage's own work, from finding it to publishing its output."""
    from ..artifacts import schema
    from ..artifacts.store import Store
    from ..stages import base

    store = Store.open(job.store)
    stage: Stage[object] = base.get(job.stage, job.module)
    params = schema.build(stage.params, job.params, prefix=job.node)
    inputs = {name: fetch(store, name, digest) for name, digest in job.inputs.items()}
    with store.outbox() as output:
        context = base.Context(
            params=params,
            inputs=inputs,
            output=output,
            job=job.scratch,
            seed=job.seed,
            threads=job.cores,
            progress=reporter.progress,
            note=reporter.note,
        )
        made = stage.run(context)
        if not isinstance(made, base.Result):
            raise StageError(f"stage {stage.name} returned {type(made).__name__} where a Result is due")
        check_plain(stage, made.observed)
        artifact = output.publish(stage.output, made.facts)
    return JobResult(
        artifact.digest,
        observed=made.observed,
        notes=tuple(reporter.notes),
        tools=tool_versions(stage, params),
        max_rss_bytes=memory.peak_bytes(),
    )


def check_plain(stage: Stage[object], observed: Mapping[str, object]) -> None:
    """Raises StageError when what a stage observed cannot stand in a record."""
    try:
        canonical_json(dict(observed))
    except (TypeError, ValueError) as error:
        raise StageError(f"what stage {stage.name} observed is not plain JSON: {error}") from error


def fetch(store: Store, name: str, digest: str) -> Artifact:
    """The artifact of an input; raises StageError when it went missing or was found corrupt."""
    artifact = store.artifact(digest)
    if artifact is None:
        what = f"the input {name!r} ({digest[:12]}) is no longer in the store, or was found corrupt"
        raise StageError(what, where=str(store.root), fix="run again: what is missing is built again")
    return artifact


def tool_versions(stage: Stage[object], params: object) -> dict[str, str]:
    """The versions of Python and of the distributions the stage declares, as this process sees them, and of
    what it ran elsewhere.
    """
    versions = {"python": sys.version.partition(" ")[0]}
    if stage.tools:
        import importlib.metadata

        versions.update({name: importlib.metadata.version(name) for name in stage.tools})
    elsewhere = stage.versions(params) if stage.versions else {}
    return {**versions, **{name: version for name, version in elsewhere.items() if version is not None}}


def take_over_standard_streams() -> int:
    """Keeps the event pipe for us alone and gives everybody else the log; the pipe's descriptor.

    Libraries, and programs a stage starts, write to and read from descriptors 0 and 1, so these are replaced
    below Python, where C code meets them as well.
    """
    events = os.dup(1)
    driver = os.dup(0)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable(all_threads=False)
    threading.Thread(target=outlive_no_driver, args=(driver,), daemon=True).start()
    return events


def outlive_no_driver(descriptor: int) -> NoReturn:
    """Waits for the end of the driver's pipe, then ends this process and those it started."""
    while os.read(descriptor, 1):
        pass
    orphaned()


def orphaned() -> NoReturn:
    """Ends this process and its group at once: nobody is left who would take an answer."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def prefer_as_victim() -> None:
    """Asks Linux to take this process first when memory runs out, not the driver or the person's desktop."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _failed(error: IngotError, reporter: Reporter) -> JobResult:
    return JobResult(None, error, notes=tuple(reporter.notes), max_rss_bytes=memory.peak_bytes())


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # The answer is on the disk; tearing down torch and its threads only takes time, and can still crash.
    os._exit(status)
