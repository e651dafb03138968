"""ONNX artifacts through onnxruntime on the CPU: opened, run in one go or step by step, and generating text.

Keys and values go from step to step as the arrays that onnxruntime returned. It hands them out and takes them
back without a copy, so IO binding brings nothing on a CPU (measured: equal within noise, and slower by its
calls on models of a few million parameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError
from . import generation
from .base import Cache, Sampling, SessionInfo
from .onnx_about import CAUSAL, ONNX, SEQ2SEQ, read_about
from .onnx_graph import Graph, OnnxGraph, cache_names, check_ids, check_length, empty_cache, session_info
from .onnx_pair import PADDING, OnnxPairSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]

MODEL_FILE = "model.onnx"
# What a past holds of a graph without a cache: the tokens so far.
SEQUENCE = "input_ids"


def open(  # noqa: A001 - its name
    path: Path, *, threads: int | None = None, device: str = "cpu"
) -> OnnxSession | OnnxPairSession:
    """The artifact or delivery in a directory as a session; all physical cores unless ``threads`` says fewer.

    An encoder-decoder is a pair of graphs, all else one.  Raises InputError when the directory holds no ONNX
    artifact or a graph cannot be opened, and RequirementError when onnxruntime is missing or older than the
    graph needs.
    """
    about = read_about(path, ONNX)
    graph = OnnxGraph(path / str(about.get("file", MODEL_FILE)), about, threads, device)
    if about["task"] == SEQ2SEQ:
        return OnnxPairSession(
            OnnxGraph(path / str(about["encoder"]["file"]), about, threads, device), graph, about
        )
    return OnnxSession(graph, about)


class OnnxSession:
    """An open graph; follows :class:`ingot.targets.runtimes.base.Session`.

    graph: what computes, by whatever runtime.  about: what `ingot.json` says.  Calls may come from several
    threads. Raises InputError for ids outside the vocabulary, sequences longer
    than the model's context, and shapes that do not fit; StageError when onnxruntime fails.
    """

    def __init__(self, graph: Graph, about: Mapping[str, Any]) -> None:
        self._graph = graph
        self._result = graph.outputs[0]
        self._logits_from = about.get("logits_from") if graph.has_defaults else None
        self._cache = cache_names(about) if about["task"] == CAUSAL else {}
        self._info = session_info(about, graph.version, graph.runtime)

    @property
    def info(self) -> SessionInfo:
        """What was opened."""
        return self._info

    def logits(self, input_ids: Ids, attention_mask: Ids | None = None) -> Floats:
        """See :meth:`Session.logits`; keys and values are not fetched."""
        feeds = self._feeds(input_ids, attention_mask, None)
        return self._graph.host(self._graph.run([self._result], feeds)[0])

    def step(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        past: Cache | None = None,
        logits_from: int = 0,
    ) -> tuple[Floats, Cache]:
        """See :meth:`Session.step`; raises InputError for an encoder, which has no cache."""
        if self._info.task != CAUSAL:
            raise InputError("an encoder has no past to step from", fix="use logits")
        import numpy as np

        if not self._cache:
            return self._anew(input_ids, attention_mask, past, logits_from)
        feeds = self._feeds(input_ids, attention_mask, past)
        # Of one column there is nothing to leave out.
        is_told = self._logits_from is not None and input_ids.shape[1] > 1
        if is_told:
            feeds[str(self._logits_from)] = np.array([logits_from], np.int64)
        result, *present = self._graph.run([self._result, *self._cache.values()], feeds)
        result = self._graph.host(result, 0 if is_told else logits_from)
        length = (past.length if past else 0) + input_ids.shape[1]
        return result, Cache(dict(zip(self._cache, present, strict=True)), length)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """See :meth:`Session.generate`.

        A row ends before an end-of-sequence token, after max_new_tokens, or when the context is full. Each
        row draws from its own random stream, so what else is in the batch does not change it. Raises
        InputError for an empty prompt and for one that leaves no room in the context.
        """
        return generation.generate_by_steps(self.step, prompts, self._info, sampling, PADDING)

    def close(self) -> None:
        """Frees onnxruntime's memory; the session cannot be used afterwards."""
        self._graph.close()

    def _anew(
        self, input_ids: Ids, attention_mask: Ids | None, past: Cache | None, logits_from: int
    ) -> tuple[Floats, Cache]:
        """A step of a graph without a cache: the whole sequence, which is what its past holds."""
        import numpy as np

        whole = np.concatenate([past.tensors[SEQUENCE], input_ids], axis=1) if past else input_ids
        new = input_ids.shape[1]
        logits = self.logits(whole, attention_mask)[:, whole.shape[1] - new :]
        return logits[:, logits_from:], Cache({SEQUENCE: whole}, whole.shape[1])

    def _feeds(self, input_ids: Ids, attention_mask: Ids | None, past: Cache | None) -> dict[str, Any]:
        import numpy as np

        length = past.length if past else 0
        check_ids(input_ids, self._info.vocabulary)
        batch, new = input_ids.shape
        mask = np.ones((batch, length + new), np.int64) if attention_mask is None else attention_mask
        if mask.shape != (batch, length + new):
            raise InputError(f"attention_mask has the shape {list(mask.shape)}, not {[batch, length + new]}")
        # Positions count from the first unmasked token; those of padding itself do not matter.
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, length:]
        check_length(int(positions.max()) + 1, self._info.context)
        feeds = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
        feeds = {name: np.ascontiguousarray(value, np.int64) for name, value in feeds.items()}
        if "token_type_ids" in self._graph.inputs:
            feeds["token_type_ids"] = np.zeros((batch, new), np.int64)
        feeds.update(past.tensors if past else empty_cache(self._cache, self._graph, batch))
        return {name: value for name, value in feeds.items() if name in self._graph.inputs}
