"""Encoder-decoder artifacts through onnxruntime on the CPU: one graph reads sources, one writes targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError
from . import generation
from .base import Cache, Sampling, SessionInfo, Source
from .onnx_graph import cache_names, check_ids, check_length, empty_cache, session_info

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from .onnx_graph import Graph

    Ids = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]

# Masked out wherever it stands, so any id that every embedding has will do.
PADDING = 0


class OnnxPairSession:
    """Two open graphs; follows :class:`ingot.targets.runtimes.base.PairSession`.

    encoder, decoder: what computes, by whatever runtime.  about: what `ingot.json` says.  Calls may come from
    several threads. Raises InputError for ids outside the vocabulary, sequences longer
    than the model's context, and shapes that do not fit; StageError when onnxruntime fails.
    """

    def __init__(self, encoder: Graph, decoder: Graph, about: Mapping[str, Any]) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._result = decoder.outputs[0]
        self._logits_from = about.get("logits_from") if decoder.has_defaults else None
        self._cache = cache_names(about)
        parts = [(layer, part) for layer in range(int(about["layers"])) for part in ("key", "value")]
        self._crossing = tuple(str(about["cross"]).format(layer=layer, part=part) for layer, part in parts)
        self._first = about.get("first_id")
        self._info = session_info(about, decoder.version, decoder.runtime)

    @property
    def info(self) -> SessionInfo:
        """What was opened."""
        return self._info

    def encode(self, input_ids: Ids, attention_mask: Ids | None = None) -> Source:
        """See :meth:`PairSession.encode`."""
        import numpy as np

        check_ids(input_ids, self._info.vocabulary)
        check_length(input_ids.shape[1], self._info.source_context)
        mask = np.ones(input_ids.shape, np.int64) if attention_mask is None else attention_mask
        if mask.shape != input_ids.shape:
            raise InputError(f"attention_mask has the shape {list(mask.shape)}, not {list(input_ids.shape)}")
        feeds = {"input_ids": input_ids, "attention_mask": mask}
        feeds = {name: np.ascontiguousarray(value, np.int64) for name, value in feeds.items()}
        tensors = self._encoder.run(self._crossing, feeds)
        return Source(dict(zip(self._crossing, tensors, strict=True)), feeds["attention_mask"])

    def logits(self, source: Source, target_ids: Ids) -> Floats:
        """See :meth:`PairSession.logits`; keys and values are not fetched."""
        found = self._decoder.run([self._result], self._feeds(source, target_ids, None))
        return self._decoder.host(found[0])

    def step(
        self, source: Source, target_ids: Ids, past: Cache | None = None, logits_from: int = 0
    ) -> tuple[Floats, Cache]:
        """See :meth:`PairSession.step`."""
        import numpy as np

        feeds = self._feeds(source, target_ids, past)
        # Of one column there is nothing to leave out.
        is_told = self._logits_from is not None and target_ids.shape[1] > 1
        if is_told:
            feeds[str(self._logits_from)] = np.array([logits_from], np.int64)
        result, *present = self._decoder.run([self._result, *self._cache.values()], feeds)
        result = self._decoder.host(result, 0 if is_told else logits_from)
        length = (past.length if past else 0) + target_ids.shape[1]
        return result, Cache(dict(zip(self._cache, present, strict=True)), length)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """See :meth:`PairSession.generate`.

        A target ends before an end-of-sequence token, after max_new_tokens, or when the context is full. Each
        draws from its own random stream, so what else is in the batch does not change it. Raises InputError
        for an empty source and for one longer than the context.
        """
        import numpy as np

        if not prompts:
            return []
        source = self.encode(*self._right_padded(prompts))
        ids = np.full((len(prompts), 1), self._info.decoder_start_id, np.int64)
        past: Cache | None = None

        def advance(last: tuple[Ids, Bools] | None) -> Floats:
            nonlocal ids, past
            if last is not None:
                # An ended target goes on beside the others; nobody reads what it becomes.
                ids = last[0][:, None]
            logits, past = self.step(source, ids, past, logits_from=-1)
            return logits[:, -1]

        room = [self._info.context - 1] * len(prompts)
        return generation.generate(advance, room, self._info.eos_ids, sampling, self._first)

    def close(self) -> None:
        """Frees onnxruntime's memory; the session cannot be used afterwards."""
        self._encoder.close()
        self._decoder.close()

    def _right_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
        """Sources as ids and mask [batch, longest], padded on the right: positions count from the left."""
        import numpy as np

        longest = max(len(prompt) for prompt in prompts)
        ids = np.full((len(prompts), longest), PADDING, np.int64)
        mask = np.zeros((len(prompts), longest), np.int64)
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise InputError(f"prompt {row + 1} is empty", fix="give at least one token")
            ids[row, : len(prompt)] = prompt
            mask[row, : len(prompt)] = 1
        return ids, mask

    def _feeds(self, source: Source, target_ids: Ids, past: Cache | None) -> dict[str, Any]:
        import numpy as np

        check_ids(target_ids, self._info.vocabulary, "target_ids")
        batch, new = target_ids.shape
        if len(source.mask) != batch:
            raise InputError(f"there are {batch} targets for {len(source.mask)} sources")
        check_length((past.length if past else 0) + new, self._info.context)
        cached = past.tensors if past else empty_cache(self._cache, self._decoder, batch)
        feeds = {
            "input_ids": np.ascontiguousarray(target_ids, np.int64),
            "encoder_attention_mask": source.mask,
            **source.tensors,
            **cached,
        }
        return {name: value for name, value in feeds.items() if name in self._decoder.inputs}
