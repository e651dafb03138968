"""Runs a driver under another interpreter, as a child of the worker: its group, its memory bound, its log."""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....artifacts.errors import StageError

# Imported, though another interpreter runs it: the key of a stage holds the source of what it imports.
from . import driver

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST, ANSWER, CHECKPOINT = "request.json", "answer.json", "checkpoint"
# Settings of our interpreter that would lead another one to our libraries.
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
KEPT_LINES = 40


@dataclass(frozen=True)
class Answer:
    """What a driver did. checkpoint: the directory that the library saved.

    seconds, cpu_seconds: of the quantization alone, without imports, loading and saving.
    """

    checkpoint: Path
    seconds: float
    cpu_seconds: float
    max_rss_bytes: int
    dtype: str
    notes: tuple[str, ...]


def ask(python: str, directory: Path, request: Mapping[str, object]) -> Answer:
    """Has ``python`` run the driver in ``directory``, unless an earlier try of the same job got its answer.

    Raises StageError, with the last line that the child said, when it ends without one.
    """
    if not (directory / ANSWER).exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / REQUEST).write_text(json.dumps(dict(request)), "utf-8")
        run([python, "-I", "-X", "utf8", driver.__file__, str(directory)])
    value = json.loads((directory / ANSWER).read_text("utf-8"))
    return Answer(
        directory / CHECKPOINT,
        float(value["seconds"]),
        float(value["cpu_seconds"]),
        int(value["max_rss_bytes"]),
        str(value["dtype"]),
        tuple(value["notes"]),
    )


def run(command: list[str]) -> None:
    """Runs a program to its end; what it says goes to our log. Raises StageError when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    # A bar drawn again for every sample would be most of the log.
    environment["TQDM_DISABLE"] = "1"
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise StageError(f"{command[0]} could not be started: {error.strerror}") from error
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    said: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
    with process:
        for line in process.stdout:
            sys.stderr.write(line)
            if line.strip():
                said.append(line.strip())
    if process.returncode:
        status = process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = said[-1] if said else "it said nothing"
        raise StageError(
            f"{Path(command[-2]).name} {how}: {last}",
            where=command[0],
            fix="all that it said is in the log of this stage",
        )
