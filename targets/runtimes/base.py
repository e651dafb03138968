"""What every runtime offers: an artifact opened as a session that computes, steps and generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SessionInfo:
    """What an opened artifact is: its task, its shape, and what runs it.

    task: `causal-lm`, `encoder` or `seq2seq-lm`.  context: the longest sequence, in tokens, and for the last
    the longest target; source_context: the longest source; decoder_start_id: what a target begins with.
    """

    task: str
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None
    runtime: str
    runtime_version: str
    source_context: int = 0
    decoder_start_id: int = 0


@dataclass(frozen=True)
class Source:
    """What an encoder made of a batch of sources: by graph input name each layer's keys and values for the
    decoder, float32 [batch, kv_heads, source, head_dim], and the mask int64 [batch, source].
    """

    tensors: Mapping[str, Floats]
    mask: Ids


@dataclass(frozen=True)
class Cache:
    """Past keys and values by graph input name, each float32 [batch, kv_heads, past, head_dim]; of a graph
    that takes none, the tokens so far, int64 [batch, past].
    """

    tensors: Mapping[str, Array]
    length: int


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy, top_k 0 and top_p 1 do not restrict."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


class Session(Protocol):
    """An artifact ready to run. Arrays are numpy; ids int64, results float32."""

    @property
    def info(self) -> SessionInfo:
        """What was opened."""

    def logits(self, input_ids: Ids, attention_mask: Ids | None = None) -> Floats:
        """Input [batch, sequence] → logits [batch, sequence, vocabulary]; encoders give the last hidden
        state [batch, sequence, hidden]. Positions count from the first unmasked token, an encoder's from the
        first column (pad those on the right).
        """

    def step(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        past: Cache | None = None,
        logits_from: int = 0,
    ) -> tuple[Floats, Cache]:
        """Like logits, with a cache: input [batch, new], mask [batch, past + new] → logits and new cache.

        logits_from: the first new position that logits are returned for, from the end when negative: -1 gives
        the last alone and spares a prompt's prefill most of the head.
        """

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """New token ids for each prompt; prompts of different length are padded on the left."""

    def close(self) -> None:
        """Frees the runtime's memory; the session cannot be used afterwards."""


@runtime_checkable
class OnDevice(Protocol):
    """What a session on a GPU tells beside."""

    @property
    def device_ms(self) -> float | None:
        """How long the device took for the last call, between its own events; None where it has none."""

    @property
    def device_bytes(self) -> int:
        """The most memory that was allocated on the device at once."""


@runtime_checkable
class PairSession(Protocol):
    """An encoder-decoder ready to run: sources are read once, targets are written step by step."""

    @property
    def info(self) -> SessionInfo:
        """What was opened."""

    def encode(self, input_ids: Ids, attention_mask: Ids | None = None) -> Source:
        """Sources [batch, source], padded on the right, as what targets are computed from."""

    def logits(self, source: Source, target_ids: Ids) -> Floats:
        """Targets [batch, sequence] from their start on → logits [batch, sequence, vocabulary], each of what
        follows. Targets that are padded on the right are not changed by that.
        """

    def step(
        self, source: Source, target_ids: Ids, past: Cache | None = None, logits_from: int = 0
    ) -> tuple[Floats, Cache]:
        """Like logits, with a cache: the next tokens [batch, new] → logits and new cache; logits_from as in
        :meth:`Session.step`.
        """

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """The target of each source, as token ids without the start token."""

    def close(self) -> None:
        """Frees the runtime's memory; the session cannot be used afterwards."""
