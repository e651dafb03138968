"""Finds what a person names on the command line: a delivery's directory, an artifact by digest, a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.errors import InputError, StoreError, nearest
from ..artifacts.layout import FORMAT_FILE
from ..artifacts.store import Store
from ..stages.base import RUNNABLE
from .history import History
from .past import REPORT

if TYPE_CHECKING:
    from ..artifacts.manifest import Artifact

SHORTEST_PREFIX = 4


def model_directory(reference: str, store: Path | None) -> Path:
    """The directory of a runnable model: ``reference`` itself, or the payload of an artifact of the store.

    Raises InputError when it is neither a directory with an `ingot.json` nor the digest of an artifact that a
    runtime opens.
    """
    directory = Path(reference)
    if directory.is_dir():
        if (directory / "ingot.json").is_file():
            return directory
        inner = sorted(path.parent for path in directory.glob("*/ingot.json"))
        hint = f"did you mean {inner[0]}?" if inner else "give a delivery's directory, such as ingot-out/cpu"
        raise InputError(f"{reference} holds no ingot.json, so it is no delivery", fix=hint)
    artifact = find_artifact(existing_store(store), reference)
    if artifact.kind not in RUNNABLE:
        kinds = " or ".join(RUNNABLE)
        raise InputError(
            f"{reference} is a {artifact.kind}, which no runtime opens",
            fix=f"name an artifact of kind {kinds}",
        )
    return artifact.path


def existing_store(path: Path | None) -> Store:
    """The store to look into; raises StoreError for a ``path`` where none is: a misspelt one is no store."""
    if path is not None and not os.path.isfile(path.expanduser() / FORMAT_FILE):  # noqa: PTH113 - never raises
        raise StoreError(
            "there is no store here", where=str(path), fix="`ingot run --store DIRECTORY` makes one"
        )
    return Store.open(path)


def find_digest(store: Store, reference: str) -> str:
    """The one digest of the store that begins with ``reference`` (at least four characters).

    Raises InputError when there is none, or more than one.
    """
    name = reference.removeprefix("sha256:").lower()
    found = [digest for digest in store.digests() if len(name) >= SHORTEST_PREFIX and digest.startswith(name)]
    if len(found) > 1:
        raise InputError(f"{reference} is the beginning of {len(found)} digests", fix="give more of it")
    if not found:
        raise InputError(
            f"{reference} is neither a directory nor an artifact of the store at {store.root}",
            fix="`ingot ls` lists the store",
        )
    return found[0]


def find_artifact(store: Store, reference: str) -> Artifact:
    """The artifact whose digest begins with ``reference``; raises InputError as :func:`find_digest` does."""
    digest = find_digest(store, reference)
    artifact = store.artifact(digest)
    if artifact is None:
        raise InputError(
            f"the artifact {digest[:12]} was corrupt and is set aside", fix="run the recipe again"
        )
    return artifact


def find_run(store: Store, reference: str | None) -> str:
    """The id of the run that ``reference`` begins; the newest one when None. Raises InputError for none."""
    runs = store.runs()
    if not runs:
        raise InputError(f"there are no runs in the store at {store.root}", fix="`ingot run` makes one")
    if reference is None:
        return runs[0]
    found = [run for run in runs if reference and run.startswith(reference)]
    if len(found) != 1:
        many = f"{len(found)} runs begin with" if found else "there is no run"
        raise InputError(f"{many} {reference!r}", fix="`ingot ls --runs` lists them")
    return found[0]


def find_subject(store: Store, name: str) -> tuple[str | None, str | None]:
    """A run or a node of the newest runs: the run's id and None, or None and the node's name.

    Raises InputError, with the nearest name, for what is neither.
    """
    nodes: set[str] = set()
    for past in History(store).runs():
        if past.node(name) is not None:
            return None, name
        nodes.update(past.nodes)
    if any(name and run.startswith(name) for run in store.runs()):
        return find_run(store, name), None
    guess = nearest(name, nodes)
    fix = f"did you mean {guess}?" if guess else "`ingot history` lists runs, `ingot history RUN` its nodes"
    raise InputError(f"{name!r} is neither a run of the store at {store.root} nor a node of one", fix=fix)


def report_directory(reference: str | None, store: Path | None) -> Path:
    """Where the reports of a run lie; the newest finished one when None.

    Raises InputError when there is no such run, or when it has no report.
    """
    opened = existing_store(store)
    reports = {run: opened.root / "runs" / run / REPORT for run in opened.runs()}
    finished = [run for run, report in reports.items() if report.is_file()]
    run = find_run(opened, reference) if reference or not finished else finished[0]
    if run not in finished:
        raise InputError(
            f"the run {run} was not finished, so it has no report", fix="run it again: it resumes"
        )
    return reports[run].parent
