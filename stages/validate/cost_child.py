"""The process in which one side of `validate.cost` runs: `python -m ingot.stages.validate.cost_child DIR
THREADS [DEVICE]`.

It answers one line of JSON on standard output for each line of JSON on standard input, and ends with it.
Its memory is its own, so its peak is that of the artifact and of what runs it, Python included.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.errors import IngotError, InputError, to_json
from ...targets.runtimes.base import OnDevice, PairSession
from ...targets.runtimes.opening import import_runtime, open_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from ...targets.runtimes.base import Cache, Session, Source

LINUX: bool = sys.platform.startswith("linux")
SEED = 0


class Side:
    """An artifact that is opened, prefilled and decoded on request, each step timed in ms."""

    def __init__(self, directory: Path, threads: int, device: str = "cpu") -> None:
        import numpy as np

        with contextlib.suppress(InputError):  # which the request to load answers with
            import_runtime(directory)  # now, so that the load time is the artifact's alone
        self._directory = directory
        self._threads = threads
        self._device = device
        self._random: np.random.Generator = np.random.default_rng(SEED)
        self._session: Session | PairSession | None = None
        self._cache: Cache | None = None
        self._source: Source | None = None
        self._device_ms: list[float] = []
        self._baseline_bytes = peak_memory_bytes()

    def answer(self, request: Mapping[str, object]) -> dict[str, object]:
        """The answer to one request, its times in ms or its bytes.

        A request is {"do": "load" | "prefill" | "decode" | "memory", "tokens": n, "batch": n}.
        """
        if request["do"] == "memory":
            peak = {"peak_bytes": peak_memory_bytes(), "baseline_bytes": self._baseline_bytes}
            return {**peak, **self._device_bytes()}
        if request["do"] == "load":
            return self._load()
        shape = int(str(request["batch"])), int(str(request["tokens"]))
        self._device_ms = []
        found = {"ms": self._prefill(*shape) if request["do"] == "prefill" else self._decode(*shape)}
        return {**found, **({"device_ms": self._device_ms} if self._device_ms else {})}

    def _device_bytes(self) -> dict[str, object]:
        """The most memory that the session has held on a GPU, where it runs on one."""
        session: object = self._session
        return {"device_bytes": session.device_bytes} if isinstance(session, OnDevice) else {}

    def _timed(self, started: float) -> float:
        """Milliseconds since a point of time, when the call's results are on the host."""
        ended = (time.perf_counter() - started) * 1e3
        session: object = self._session
        if isinstance(session, OnDevice) and session.device_ms is not None:
            self._device_ms.append(session.device_ms)
        return ended

    def _load(self) -> dict[str, object]:
        started = time.perf_counter()
        session = open_session(self._directory, threads=self._threads, device=self._device)
        milliseconds = (time.perf_counter() - started) * 1e3
        self._session = session
        info = session.info
        return {
            "ms": milliseconds,
            "task": info.task,
            "context": min(info.context, info.source_context or info.context),
            "runtime": info.runtime,
            "runtime_version": info.runtime_version,
        }

    def _prefill(self, batch: int, tokens: int) -> float:
        """Time until the next token of each prompt is known, and the past is kept for decoding.

        An encoder-decoder's prompt is its source: it is encoded, and the target's start gives the next token.
        """
        import numpy as np

        session = self._opened()
        info = session.info
        ids = self._random.integers(0, info.vocabulary, (batch, tokens))
        starts = np.full((batch, 1), info.decoder_start_id)
        started = time.perf_counter()
        if isinstance(session, PairSession):
            self._source = session.encode(ids)
            _, self._cache = session.step(self._source, starts, logits_from=-1)
        elif info.task == "causal-lm":
            _, self._cache = session.step(ids, logits_from=-1)
        else:
            session.logits(ids)
        return self._timed(started)

    def _decode(self, batch: int, tokens: int) -> list[float]:
        """Times of single steps after the last prefill, of that batch; its past is left as it was."""
        session, past = self._opened(), self._cache
        milliseconds = []
        for token in self._random.integers(0, session.info.vocabulary, (tokens, batch, 1)):
            started = time.perf_counter()
            if isinstance(session, PairSession):
                _, past = session.step(self._read(), token, past)
            else:
                _, past = session.step(token, None, past)
            milliseconds.append(self._timed(started))
        return milliseconds

    def _read(self) -> Source:
        if self._source is None:
            raise ValueError("a decode must follow a prefill")
        return self._source

    def _opened(self) -> Session | PairSession:
        if self._session is None:
            raise ValueError("the first request must be load")
        return self._session


def peak_memory_bytes() -> int:
    """The most memory that this process has held resident, in bytes."""
    if LINUX:
        # Not getrusage: on Linux its figure starts from the parent's.
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: list[str]) -> int:
    """Answers requests until standard input ends; what goes wrong is an answer too."""
    side = Side(Path(arguments[0]), int(arguments[1]), *arguments[2:])
    print(json.dumps({"ready": True}), flush=True)  # noqa: T201 - standard output is the protocol
    for line in sys.stdin:
        try:
            answer = side.answer(json.loads(line))
        except IngotError as error:
            answer = {"error": to_json(error)}
        print(json.dumps(answer), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
