"""The same inputs through an exported graph and through PyTorch in float32, eager attention."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Feeds = dict[str, Array]


def open_graph(path: Path) -> Any:
    """A session with one thread and the options that the export asks for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    about = path.parent / "ingot.json"
    if about.exists():
        for name, value in json.loads(about.read_text())["session_options"].items():
            options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """An exported graph in onnxruntime, with one thread."""

    def __init__(self, directory: Path) -> None:
        self.session = open_graph(directory / "model.onnx")
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, feeds: Feeds, past: Feeds | None = None) -> tuple[Array, Feeds]:
        """The first output, and the cache to give to the next call."""
        batch = len(feeds["input_ids"])
        given = dict(feeds)
        for value in self.session.get_inputs():
            if value.name.startswith("past_key_values"):
                dtype = np.float16 if value.type == "tensor(float16)" else np.float32
                empty = np.zeros((batch, value.shape[1], 0, value.shape[3]), dtype)
                given[value.name] = past[value.name] if past else empty
        results = dict(zip(self.outputs, self.session.run(None, given), strict=True))
        cache = {f"past_key_values{n[7:]}": v for n, v in results.items() if n.startswith("present")}
        return results[self.outputs[0]], cache


class TorchModel:
    """A checkpoint in transformers."""

    def __init__(self, directory: Path, class_name: str, dtype: str = "float32") -> None:
        import torch
        import transformers

        self.model = getattr(transformers, class_name).from_pretrained(
            directory, dtype=getattr(torch, dtype), attn_implementation="eager"
        )
        self.model.eval()

    def __call__(self, feeds: Feeds, past: Any = None) -> tuple[Array, Any]:
        """The logits, and the cache."""
        import torch

        with torch.no_grad():
            tensors = {name: torch.tensor(value) for name, value in feeds.items()}
            result = self.model(**tensors, past_key_values=past, use_cache=True)
            return result.logits.float().numpy(), result.past_key_values

    def hidden(self, feeds: Feeds) -> Array:
        """The last hidden state of an encoder."""
        import torch

        with torch.no_grad():
            tensors = {name: torch.tensor(value) for name, value in feeds.items()}
            return self.model(**tensors).last_hidden_state.float().numpy()


@dataclass(frozen=True)
class Case:
    """Steps of one sequence after another, as slices of ids with the mask of all."""

    ids: Array
    mask: Array
    cuts: tuple[int, ...]

    def steps(self) -> list[Feeds]:
        """Feeds for each part between cuts; positions count from the first unmasked token."""
        positions = np.clip(np.cumsum(self.mask, 1) - 1, 0, None)
        edges = (0, *self.cuts, self.ids.shape[1])
        return [
            {
                "input_ids": self.ids[:, start:stop],
                "attention_mask": self.mask[:, :stop],
                "position_ids": positions[:, start:stop],
            }
            for start, stop in itertools.pairwise(edges)
        ]


def cases(vocabulary: int, seed: int = 0) -> dict[str, Case]:
    """Prefill, decoding with a past, batch 2, and batch 2 padded on the left by different amounts."""
    rng = np.random.default_rng(seed)

    def ids(batch: int, length: int) -> Array:
        return rng.integers(0, vocabulary, (batch, length))

    padded = np.ones((2, 20), np.int64)
    padded[0, :6] = 0
    padded[1, :1] = 0
    return {
        "prefill": Case(ids(1, 40), np.ones((1, 40), np.int64), ()),
        "decoding with a past": Case(ids(1, 36), np.ones((1, 36), np.int64), (33, 34, 35)),
        "batch 2": Case(ids(2, 20), np.ones((2, 20), np.int64), (13, 19)),
        "batch 2 padded on the left": Case(ids(2, 20), padded, (13, 19)),
    }


def largest_difference(first: OnnxModel | TorchModel, second: TorchModel, case: Case) -> float:
    """Over all steps, the largest absolute difference at positions that are not padding."""
    caches: tuple[Any, Any] = (None, None)
    differences = []
    for feeds in case.steps():
        ours, ours_cache = first(feeds, caches[0])
        theirs, theirs_cache = second(feeds, caches[1])
        caches = (ours_cache, theirs_cache)
        visible = feeds["attention_mask"][:, -feeds["input_ids"].shape[1] :].astype(bool)
        assert np.isfinite(ours).all()
        differences.append(float(np.abs(ours - theirs)[visible].max()))
    return max(differences)
