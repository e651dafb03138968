"""The parent's end of one side of `validate.cost`: a fresh process that answers requests (see
cost_child.py).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

from ...artifacts.errors import StageError, from_json
from . import cost_child

if TYPE_CHECKING:
    from collections.abc import Mapping

# Imported, though another process runs it: the key of the stage holds the source of what it imports.
CHILD = cost_child.__name__
CLOSE_SECONDS = 10.0


class SideProcess:
    """A child that has one artifact. Its standard error is ours, so what it prints is in the stage's log.

    device_ms: the last times by a GPU's own clock, none without one. Raises StageError when it dies, and the
    child's own error when a request fails.
    """

    def __init__(self, directory: str, threads: int, device: str = "cpu") -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", CHILD, directory, str(threads), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._ready = False
        self.device_ms: list[float] = []

    def wait_until_ready(self) -> None:
        """Returns when the child has imported all that it needs."""
        if not self._ready:
            self._receive()
            self._ready = True

    def ask(self, what: str, tokens: int = 0, batch: int = 1) -> Mapping[str, object]:
        """The child's answer."""
        self.wait_until_ready()
        stream = self._process.stdin
        assert stream is not None  # noqa: S101 - it is a pipe
        try:
            stream.write(json.dumps({"do": what, "tokens": tokens, "batch": batch}) + "\n")
            stream.flush()
        except BrokenPipeError:
            raise self._died() from None
        return self._receive()

    def ask_ms(self, what: str, tokens: int, batch: int = 1) -> list[float]:
        """The times in an answer, in ms."""
        answer = self.ask(what, tokens, batch)
        times, device = answer["ms"], answer.get("device_ms")
        self.device_ms = [float(time) for time in device] if isinstance(device, list) else []
        return [float(time) for time in times] if isinstance(times, list) else [float(str(times))]

    def close(self) -> None:
        """Ends the child, by force when it does not end by itself."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _receive(self) -> Mapping[str, object]:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, object] = json.loads(line)
        error = answer.get("error")
        if isinstance(error, dict):
            raise from_json(error)
        return answer

    def _died(self) -> StageError:
        status = self._process.wait(CLOSE_SECONDS)
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return StageError(
            f"the process that measures {self._directory} {how}",
            fix="its last words are in the log of this stage",
        )
