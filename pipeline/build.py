"""Builds one node: hands its job to an executor, waits, and records what was made and what it cost."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts import schema
from ..artifacts.digest import digest_file
from ..artifacts.errors import IngotError, StageError
from ..artifacts.files import storage
from ..artifacts.manifest import Action, Artifact
from ..artifacts.store import Store
from ..stages import base
from ..targets.host import probe
from .events import Emit, NodeStarted
from .executor import Executor
from .job import Job, JobResult
from .journal import LOGS, utc_now
from .keys import check_unchanged
from .outcome import Ending, NodeResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .executor import Ended
    from .graph import Node
    from .ledger import Grant
    from .plan import Decision

TAIL_LINES = 5
TAIL_BYTES = 1 << 14
# How faulthandler begins what it writes when C code crashes.
CRASH = "Fatal Python error"


@dataclass(frozen=True)
class NodeBuilder:
    """What building a node of one run needs; directory: the run's own, for logs."""

    run: str
    directory: Path
    store: Store
    executor: Executor
    emit: Emit

    def build(self, node: Node, decision: Decision, inputs: Mapping[str, str], grant: Grant) -> NodeResult:
        """The result of running ``node``, or of finding its output when another run was faster.

        inputs: input name → artifact digest.  What goes wrong becomes a FAILED result. Two runs that want one
        key take turns at its lock, so that the work is done once.
        """
        key, preimage = decision.key, decision.preimage
        if key is None or preimage is None:
            raise ValueError(f"{node.name} has no key, so it cannot be run")
        try:
            with self.store.lock(key):
                found = self.store.lookup(key)
                if found is not None:
                    return hit(node, *found, reason="another run built it meanwhile")
                return self._run(node, decision, key, preimage, self._job(node, key, inputs, grant))
        except IngotError as error:
            return failed(node, key, error)

    def _job(self, node: Node, key: str, inputs: Mapping[str, str], grant: Grant) -> Job:
        log = self.directory / LOGS / f"{urllib.parse.quote(node.name, safe='@[]=,')}.log"
        return Job(
            node=node.name,
            stage=node.stage,
            params=schema.to_plain(node.params),
            inputs=inputs,
            key=key,
            store=self.store.root,
            directory=self.store.job_dir(key),
            log=log,
            seed=node.seed,
            cores=grant.cores,
            memory_bytes=self.executor.capacity().memory_bytes,
            module=base.get(node.stage).module,
        )

    def _run(
        self, node: Node, decision: Decision, key: str, preimage: Mapping[str, object], job: Job
    ) -> NodeResult:
        job.write()
        started = utc_now()
        self.emit(NodeStarted(node.name, node.stage, key, job.cores, job.memory_bytes, str(job.log)))
        ended = self.executor.submit(job, self.emit).wait()
        result = JobResult.read(job.directory)
        artifact = self._output(job, ended, result)
        if isinstance(artifact, IngotError):
            return failed(node, key, artifact, ended=ended, result=result, log=job.log)
        assert result is not None  # noqa: S101 - there is no artifact without an answer
        check_unchanged(node, preimage, self.store)
        peak_bytes = result.max_rss_bytes
        with storage(job.log):
            log_digest = digest_file(job.log)
        observed = {
            "run": self.run,
            "started": started,
            "finished": utc_now(),
            "seconds": round(ended.seconds, 6),
            "cpu_seconds": round(ended.cpu_seconds, 6),
            "max_rss_bytes": peak_bytes,
            "held_bytes": ended.max_rss_bytes,
            "output_bytes": artifact.record.size_bytes,
            "cores": job.cores,
            "exit": ended.exit,
            "log": log_digest,
            "notes": list(result.notes),
            "tools": dict(result.tools),
            "stage": dict(result.observed),
            "reason": decision.reason,
            "host": probe().fingerprint(),
            **(decision.expected.record() if decision.expected else {}),
        }
        action = self.store.record(Action(key, node.name, preimage, artifact.digest, observed))
        self.store.discard_job(key)
        return NodeResult(
            node.name,
            Ending.BUILT,
            decision.reason,
            key=key,
            artifact=self.store.artifact(action.output) or artifact,
            action=action,
            seconds=ended.seconds,
            cpu_seconds=ended.cpu_seconds,
            max_rss_bytes=peak_bytes,
            notes=result.notes,
            log=job.log,
        )

    def _output(self, job: Job, ended: Ended, result: JobResult | None) -> Artifact | IngotError:
        """The artifact a job made, or why there is none."""
        if result is None:
            return ended.error or died(job, ended)
        if result.error is not None:
            return result.error
        artifact = self.store.artifact(str(result.artifact))
        return artifact or StageError(
            f"{job.node} made an output that is already gone from the store, or was found corrupt",
            where=str(self.store.root),
            fix="run `ingot verify`, and check the disk",
        )


def hit(node: Node, action: Action, artifact: Artifact, *, reason: str) -> NodeResult:
    """The result of a node whose output the store has."""
    notes = action.observed.get("notes")
    return NodeResult(
        node.name,
        Ending.HIT,
        reason,
        key=action.key,
        artifact=artifact,
        action=action,
        notes=tuple(str(note) for note in notes) if isinstance(notes, list) else (),
    )


def failed(
    node: Node,
    key: str | None,
    error: IngotError,
    *,
    ended: Ended | None = None,
    result: JobResult | None = None,
    log: Path | None = None,
) -> NodeResult:
    """The result of a node that was tried, with what it had spent by then."""
    kernel_peak_bytes = ended.max_rss_bytes if ended else 0
    return NodeResult(
        node.name,
        Ending.FAILED,
        error.what,
        key=key,
        error=error,
        seconds=ended.seconds if ended else 0.0,
        cpu_seconds=ended.cpu_seconds if ended else 0.0,
        max_rss_bytes=result.max_rss_bytes if result else kernel_peak_bytes,
        notes=result.notes if result else (),
        log=log,
    )


def died(job: Job, ended: Ended) -> StageError:
    """The error for a worker that ended without an answer, with the last lines of its log."""
    how = f"was killed by signal {-ended.exit}" if ended.exit < 0 else f"ended with status {ended.exit}"
    tail = last_lines(job.log)
    quoted = "; its log ends with:\n  " + "\n  ".join(tail) if tail else "; its log is empty"
    memory_hint = "the system may have run out of memory: free some; then run again"
    return StageError(
        f"the worker of {job.node} {how}{quoted}",
        where=f"log: {job.log}",
        fix=memory_hint if ended.exit == -9 else "run again; what was finished is kept",
    )


def last_lines(log: Path) -> list[str]:
    """The last few lines of a log, or the first of a crash report at its end, whose cause comes first."""
    with storage(log), log.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - TAIL_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    crashes = [position for position, line in enumerate(lines) if line.startswith(CRASH)]
    return lines[crashes[-1] :][:TAIL_LINES] if crashes else lines[-TAIL_LINES:]
