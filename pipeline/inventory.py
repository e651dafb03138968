"""What the store holds, as rows for `ingot ls` and as full records for `ingot show`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..artifacts.errors import InputError
from .locate import find_artifact, find_run
from .past import past_run, past_runs
from .units import show_bytes

if TYPE_CHECKING:
    from ..artifacts.manifest import Action
    from ..artifacts.store import Store


@dataclass(frozen=True)
class ArtifactRow:
    """An artifact in a list; made: when its newest action finished (ISO 8601, UTC)."""

    digest: str
    kind: str
    size_bytes: int
    node: str
    made: str

    def to_json(self) -> dict[str, object]:
        """The row as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class RunRow:
    """A run in a list; state: done, failed, interrupted, unfinished (cut off) or damaged."""

    run: str
    state: str
    built: int
    cached: int
    failed: int

    def to_json(self) -> dict[str, object]:
        """The row as plain values."""
        return asdict(self)


def artifacts(store: Store) -> list[ArtifactRow]:
    """The artifacts of the store, the last made first; those that no record leads to come last."""
    makers: dict[str, Action] = {}
    for action in map(store.read_action, store.newest_keys()):
        if action is not None:
            makers.setdefault(action.output, action)
    order = {digest: place for place, digest in enumerate(makers)}
    rows = []
    for digest in store.digests():
        artifact = store.artifact(digest)
        if artifact is not None:
            maker = makers.get(digest)
            node, made = (maker.node, _finished(maker)) if maker else ("", "")
            rows.append(ArtifactRow(digest, artifact.kind, artifact.record.size_bytes, node, made))
    return sorted(rows, key=lambda row: order.get(row.digest, len(order)))


def runs(store: Store) -> list[RunRow]:
    """The runs of the store, newest first."""
    return [
        RunRow(past.run, past.state, past.count("built"), past.count("hit"), past.count("failed"))
        for past in past_runs(store)
    ]


def describe(store: Store, reference: str) -> dict[str, object]:
    """An artifact with its record and the actions that made it, or a run with its plan and what came of it.

    Raises InputError when ``reference`` names neither.
    """
    try:
        artifact = find_artifact(store, reference)
    except InputError as error:
        try:
            run = find_run(store, reference)
        except InputError:
            raise error from None
        past = past_run(store, run)
        finished = [asdict(node.event) for node in past.nodes.values()]
        return {"run": run, "plan": past.plan or None, "nodes": finished}
    made_by = [action.to_json() for action in store.actions() if action.output == artifact.digest]
    return {
        "digest": artifact.digest,
        "path": str(artifact.path),
        **artifact.record.to_json(),
        "made_by": made_by,
    }


def show_artifacts(rows: list[ArtifactRow]) -> str:
    """The rows as a table of fixed columns."""
    if not rows:
        return "there are no artifacts yet; `ingot demo` or `ingot run` makes some"
    lines = [f"{'DIGEST':<14}{'KIND':<22}{'SIZE':>10}  {'MADE':<22}NODE"]
    lines += [
        f"{row.digest[:12]:<14}{row.kind:<22}{show_bytes(row.size_bytes):>10}  {row.made[:19]:<22}{row.node}"
        for row in rows
    ]
    return "\n".join(lines)


def show_runs(rows: list[RunRow]) -> str:
    """The rows as a table of fixed columns."""
    if not rows:
        return "there are no runs yet; `ingot demo` or `ingot run` makes one"
    lines = [f"{'RUN':<30}{'STATE':<13}{'BUILT':>6}{'CACHED':>8}{'FAILED':>8}"]
    lines += [f"{row.run:<30}{row.state:<13}{row.built:>6}{row.cached:>8}{row.failed:>8}" for row in rows]
    return "\n".join(lines)


def _finished(action: Action) -> str:
    return str(action.observed.get("finished", ""))
