"""A causal language model as three programs over a static cache, whatever runs them: the session of `aoti`.

Prompts are moved to the left, so that padding stands on the right where causal attention does not look; a
step writes each row's token at a position of its own. The caches of a batch are kept from call to call: a
prefill of as many rows writes over the past of the one before, which is then refused.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError, StageError
from . import generation
from .base import Cache, Sampling, SessionInfo
from .onnx_graph import check_ids, check_length, session_info
from .program import CUDA, DECODE, HEAD, MOST_BATCH, PREFILL, caches, kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]
    Programs = Mapping[str, Callable[..., Any]]

PAD = 0
SCORING, STEPPING = "scoring", "stepping"
# Runs of a step before it is captured, so that libraries have their workspaces.
WARM_RUNS = 3
# A prompt's graph is of a length that this divides, so that few are captured; above so many tokens, computing
# takes longer than launching.
BUCKET, MOST_CAPTURED = 64, 8192


@dataclass(frozen=True)
class StaticCache(Cache):
    """A past in the session's own caches. positions: of each row's next token.  generation: of the prefill
    that wrote it.
    """

    batch: int = 0
    positions: tuple[int, ...] = ()
    generation: int = 0


class StaticSession:
    """Follows :class:`ingot.targets.runtimes.base.Session`.

    about: what `ingot.json` says.  programs: by name, from tensors to a tensor.  Calls may come from several
    threads and are done one at a time. Raises InputError for ids outside the vocabulary and sequences longer
    than the caches, and StageError for a past that was written over and when torch fails.
    """

    def __init__(
        self, about: Mapping[str, Any], programs: Programs, weights: list[Any], device: str, runtime: str
    ) -> None:
        import torch

        self._about = about
        self._programs: dict[str, Callable[..., Any]] = dict(programs)
        self._weights = weights
        self._device = device
        self._lock = threading.Lock()
        self._caches: dict[tuple[str, int], tuple[list[Any], list[Any]]] = {}
        self._graphs: dict[int, _Captured] = {}
        self._prompts: dict[tuple[int, int], _Captured | None] = {}
        self._generations: dict[int, int] = {}
        self._device_ms: float | None = None
        self._info = session_info(about, str(torch.__version__), f"torch {runtime}")

    @property
    def info(self) -> SessionInfo:
        """What was opened."""
        return self._info

    def logits(self, input_ids: Ids, attention_mask: Ids | None = None) -> Floats:
        """See :meth:`Session.logits`; rows may be padded on either side."""
        ids, starts = self._aligned(input_ids, attention_mask)
        with self._lock:
            hidden = self._prefill(SCORING, ids)
            found = self._host(self._run(HEAD, hidden))
        result: Floats = _shifted(found, starts)
        return result

    def step(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        past: Cache | None = None,
        logits_from: int = 0,
    ) -> tuple[Floats, Cache]:
        """See :meth:`Session.step`; only the first step of a past takes more than a token at the speed of a
        prefill, later ones go token by token.
        """
        import numpy as np

        if past is None:
            return self._first(input_ids, attention_mask, logits_from)
        state = self._past(past, input_ids)
        new = input_ids.shape[1]
        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask[:, -new:]
        parts: list[Floats] = []
        with self._lock:
            for column in range(new):
                parts.append(self._decode(input_ids[:, column], state.positions))
                moved = (
                    place + int(kept) for place, kept in zip(state.positions, mask[:, column], strict=True)
                )
                state = StaticCache({}, state.length + 1, state.batch, tuple(moved), state.generation)
        return np.concatenate(parts, axis=1)[:, logits_from:], state

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """See :meth:`Session.generate`; a row ends before an end token, or when the caches are full."""
        import numpy as np

        if not prompts:
            return []
        longest = max(len(prompt) for prompt in prompts)
        ids = np.full((len(prompts), longest), PAD, np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise InputError(f"prompt {row + 1} is empty", fix="give at least one token")
            if len(prompt) >= self._info.context:
                raise InputError(
                    f"prompt {row + 1} has {len(prompt)} tokens, the caches hold {self._info.context}",
                    fix=f"give at most {self._info.context - 1}, so that one can follow",
                )
            ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
        past: Cache | None = None

        def advance(last: tuple[Ids, Bools] | None) -> Floats:
            nonlocal past
            if last is None:
                logits, past = self.step(ids, mask, None, logits_from=-1)
            else:
                tokens, running = last
                # The place of an ended row stays where it is, and its token changes nothing that is read.
                logits, past = self.step(
                    np.where(running, tokens, PAD)[:, None], running[:, None].astype(np.int64), past
                )
            return logits[:, -1]

        room = [self._info.context - len(prompt) for prompt in prompts]
        return generation.generate(advance, room, self._info.eos_ids, sampling)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Around what a call computes; the caller holds the lock."""
        yield

    def close(self) -> None:
        """Frees the weights and caches; the session cannot be used afterwards."""
        self._programs, self._weights = {}, []
        self._caches.clear()
        self._graphs.clear()
        self._prompts.clear()
        if self._device == CUDA:
            import torch

            torch.cuda.empty_cache()

    def _first(self, input_ids: Ids, attention_mask: Ids | None, logits_from: int) -> tuple[Floats, Cache]:
        """A prefill that is kept, with the logits of all columns from one on."""
        import numpy as np
        import torch

        ids, starts = self._aligned(input_ids, attention_mask)
        batch, length = ids.shape
        counts = np.full(batch, length) if attention_mask is None else attention_mask.sum(axis=1)
        first = logits_from % length if logits_from < 0 else logits_from
        columns = np.arange(first, length)[None] - starts[:, None]
        if logits_from == -1:
            # The last token of each row, wherever its padding stands.
            columns = (counts - 1)[:, None]
        with self._lock:
            with self._timed():
                hidden = self._prefill(STEPPING, ids)
                places = torch.from_numpy(np.clip(columns, 0, length - 1)).to(hidden.device)
                rows = torch.arange(batch, device=hidden.device)[:, None]
                logits = self._run(HEAD, hidden[rows, places])
            found = self._host(logits)
            self._generations[batch] = self._generations.get(batch, 0) + 1
            generation = self._generations[batch]
        return found, StaticCache({}, length, batch, tuple(map(int, counts)), generation)

    def _past(self, past: Cache, input_ids: Ids) -> StaticCache:
        check_ids(input_ids, self._info.vocabulary)
        if not isinstance(past, StaticCache) or past.batch != input_ids.shape[0]:
            raise InputError(
                "the past is of another session or batch", fix="begin with a step without a past"
            )
        if past.generation != self._generations.get(past.batch):
            raise StageError(
                "a later prefill of as many rows wrote over this past", fix="step from the last prefill"
            )
        check_length(max(past.positions) + input_ids.shape[1], self._info.context)
        return past

    def _aligned(self, input_ids: Ids, attention_mask: Ids | None) -> tuple[Ids, Ids]:
        """Rows without the padding on their left, and how far each was moved."""
        import numpy as np

        check_ids(input_ids, self._info.vocabulary)
        check_length(input_ids.shape[1], self._info.context)
        if input_ids.shape[0] > MOST_BATCH:
            raise InputError(
                f"{input_ids.shape[0]} rows are more than {MOST_BATCH}", fix="make smaller batches"
            )
        if attention_mask is None:
            return input_ids, np.zeros(len(input_ids), np.int64)
        if attention_mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask has the shape {list(attention_mask.shape)}, not {list(input_ids.shape)}"
            )
        starts = attention_mask.argmax(axis=1)
        counts = attention_mask.sum(axis=1)
        columns = np.arange(input_ids.shape[1])
        whole = (columns >= starts[:, None]) & (columns < (starts + counts)[:, None])
        if counts.min() < 1 or (whole != (attention_mask == 1)).any():
            raise InputError("attention_mask masks tokens between others", fix="pad on the left or the right")
        return _shifted(input_ids, -starts), starts

    def _prefill(self, purpose: str, ids: Ids) -> Any:
        import torch

        keys, values = self._cache(purpose, len(ids))
        given = torch.from_numpy(ids).to(self._device)
        batch, length = ids.shape
        # A step writes each place before it reads it, so what padding leaves in the caches is never seen.
        padded = min(-(-length // BUCKET) * BUCKET, self._info.context)
        if purpose != STEPPING or not self._captures or batch * padded > MOST_CAPTURED:
            return self._run(PREFILL, keys, values, given)
        # Capturing takes several runs, so a length must come a second time.
        if (batch, padded) not in self._prompts:
            self._prompts[batch, padded] = None
            return self._run(PREFILL, keys, values, given)
        given = torch.nn.functional.pad(given, (0, padded - length), value=PAD)
        graph = self._prompts[batch, padded]
        if graph is None:
            run = lambda ids: self._run(PREFILL, keys, values, ids)  # noqa: E731
            graph = self._prompts[batch, padded] = _Captured(run, given)
        return graph(given)[:, :length]

    @property
    def _captures(self) -> bool:
        """Whether what is launched again and again is launched as a graph."""
        return self._device == CUDA and bool(self._about["cuda_graphs"])

    def _decode(self, tokens: Ids, positions: Sequence[int]) -> Floats:
        """Logits [batch, 1, vocabulary] of one token a row; the caller holds the lock."""
        import torch

        keys, values = self._cache(STEPPING, len(tokens))
        ids, places = torch.from_numpy(tokens[:, None].copy()), torch.tensor(positions, dtype=torch.int64)
        if not self._captures:
            with self._timed():
                found = self._run(DECODE, keys, values, ids.to(self._device), places.to(self._device))
            return self._host(found)
        if len(tokens) not in self._graphs:
            run = lambda *given: self._run(DECODE, keys, values, *given)  # noqa: E731
            self._graphs[len(tokens)] = _Captured(run, ids.to(self._device), places.to(self._device))
        with self._timed():
            found = self._graphs[len(tokens)](ids, places)
        return self._host(found)

    def _cache(self, purpose: str, batch: int) -> tuple[list[Any], list[Any]]:
        if (purpose, batch) not in self._caches:
            self._caches[purpose, batch] = caches(self._about, batch, self._device)
        return self._caches[purpose, batch]

    def _run(self, name: str, *given: Any) -> Any:
        import torch

        if name not in self._programs:
            raise StageError("the session is closed")
        try:
            with torch.no_grad(), kernels(self._about):
                return self._programs[name](self._weights, *given)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StageError(f"torch failed in {name}: {reason}") from error

    def _host(self, found: Any) -> Floats:
        result: Floats = found.float().cpu().numpy()
        return result


class _Captured:
    """A call as a CUDA graph: its inputs are copied into place, and what it launches is launched as one."""

    def __init__(self, run: Callable[..., Any], *inputs: Any) -> None:
        import torch

        self._inputs = inputs
        cuda: Any = torch.cuda
        side = cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_RUNS):
                run(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = run(*inputs)

    def __call__(self, *inputs: Any) -> Any:
        """The output for these inputs; it is written over by the next call."""
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output


class GpuSession(StaticSession):
    """A session on a GPU, which also follows :class:`ingot.targets.runtimes.base.OnDevice`."""

    @property
    def device_ms(self) -> float | None:
        """See :attr:`OnDevice.device_ms`."""
        return self._device_ms

    @property
    def device_bytes(self) -> int:
        """See :attr:`OnDevice.device_bytes`; what torch's allocator has reserved, graphs included."""
        import torch

        return int(torch.cuda.max_memory_reserved())

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        import torch

        cuda: Any = torch.cuda
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        end.synchronize()
        self._device_ms = float(start.elapsed_time(end))


def _shifted(rows: Any, by: Ids) -> Any:
    """Rows moved to the right by so many columns each, or to the left by negative ones; what is moved out
    comes in again on the other side.
    """
    import numpy as np

    if not by.any():
        return rows
    columns = (np.arange(rows.shape[1])[None] - by[:, None]) % rows.shape[1]
    return rows[np.arange(len(rows))[:, None], columns]
