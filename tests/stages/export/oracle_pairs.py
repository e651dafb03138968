"""The same sources and targets through both graphs of an encoder-decoder and through PyTorch in float32."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .oracle import open_graph

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from .oracle import Feeds

    Array = npt.NDArray[Any]


class OnnxPair:
    """An exported encoder-decoder in onnxruntime, with one thread."""

    def __init__(self, directory: Path) -> None:
        self.encoder, self.decoder = (open_graph(directory / name) for name in ("encoder.onnx", "model.onnx"))

    def encode(self, ids: Array, mask: Array) -> Feeds:
        """The last hidden state, and what the decoder takes of a source."""
        names = [output.name for output in self.encoder.get_outputs()]
        return dict(
            zip(names, self.encoder.run(None, {"input_ids": ids, "attention_mask": mask}), strict=True)
        )

    def step(self, ids: Array, source: Feeds, mask: Array, past: Feeds | None) -> tuple[Array, Feeds]:
        """The logits, and the cache to give to the next call."""
        given = {"input_ids": ids, "encoder_attention_mask": mask}
        given |= {name: value for name, value in source.items() if name.startswith("cross")}
        for value in self.decoder.get_inputs():
            if value.name.startswith("past_key_values"):
                empty = np.zeros((len(ids), value.shape[1], 0, value.shape[3]), np.float32)
                given[value.name] = past[value.name] if past else empty
        names = [output.name for output in self.decoder.get_outputs()]
        results = dict(zip(names, self.decoder.run(None, given), strict=True))
        return results.pop("logits"), {f"past_key_values{n[7:]}": v for n, v in results.items()}


class TorchPair:
    """An encoder-decoder checkpoint in transformers."""

    def __init__(self, directory: Path) -> None:
        import torch
        import transformers

        self.model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def encode(self, ids: Array, mask: Array) -> Feeds:
        """The last hidden state."""
        import torch

        with torch.no_grad():
            result = self.model.get_encoder()(torch.tensor(ids), attention_mask=torch.tensor(mask))
        return {"last_hidden_state": result.last_hidden_state.numpy()}

    def step(self, ids: Array, source: Feeds, mask: Array, past: Any) -> tuple[Array, Any]:
        """The logits, and the cache."""
        import torch

        with torch.no_grad():
            result = self.model(
                encoder_outputs=(torch.tensor(source["last_hidden_state"]),),
                attention_mask=torch.tensor(mask),
                decoder_input_ids=torch.tensor(ids),
                past_key_values=past,
                use_cache=True,
            )
        return result.logits.numpy(), result.past_key_values


@dataclass(frozen=True)
class PairCase:
    """A batch of sources with their mask, and targets given in parts between cuts."""

    source: Array
    mask: Array
    target: Array
    cuts: tuple[int, ...]


def pair_cases(vocabulary: int, seed: int = 0) -> dict[str, PairCase]:
    """Prefill, decoding with a past, batch 2, and batch 2 whose sources are padded on the right."""
    rng = np.random.default_rng(seed)

    def ids(batch: int, length: int) -> Array:
        return rng.integers(0, vocabulary, (batch, length))

    padded = np.ones((2, 17), np.int64)
    padded[1, 9:] = 0
    return {
        "prefill": PairCase(ids(1, 40), np.ones((1, 40), np.int64), ids(1, 33), ()),
        "decoding with a past": PairCase(ids(1, 25), np.ones((1, 25), np.int64), ids(1, 36), (33, 34, 35)),
        "batch 2": PairCase(ids(2, 21), np.ones((2, 21), np.int64), ids(2, 20), (13, 19)),
        "batch 2 with a padded source": PairCase(ids(2, 17), padded, ids(2, 20), (1, 19)),
    }


def largest_pair_difference(first: OnnxPair, second: TorchPair, case: PairCase) -> float:
    """The largest absolute difference of logits in all parts, and of hidden states that are no padding."""
    sources = [side.encode(case.source, case.mask) for side in (first, second)]
    hidden = np.abs(sources[0]["last_hidden_state"] - sources[1]["last_hidden_state"])
    differences = [float(hidden[case.mask.astype(bool)].max())]
    caches: tuple[Any, Any] = (None, None)
    for start, stop in itertools.pairwise((0, *case.cuts, case.target.shape[1])):
        part = case.target[:, start:stop]
        ours, ours_cache = first.step(part, sources[0], case.mask, caches[0])
        theirs, theirs_cache = second.step(part, sources[1], case.mask, caches[1])
        caches = (ours_cache, theirs_cache)
        assert np.isfinite(ours).all()
        differences.append(float(np.abs(ours - theirs).max()))
    return max(differences)
