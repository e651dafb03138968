"""Logits on disk (artifact kind `logits`): files that numpy alone reads, mapped instead of loaded.

`logits.json` says what they are; arrays are `.npy` files. All windows lie one after another. With T tokens
in W windows, P = T - W predictions (a window's first token is given, not predicted) and k kept
log-probabilities:

| file | dtype, shape | content |
|---|---|---|
| `ids.npy` | int64 [T] | the tokens of all windows |
| `lengths.npy`, `document.npy` | int64 [W] | tokens of each window, and the number of its document |
| `nll.npy` | float32 [P] | negative log-likelihood of the token that came, in nat |
| `top_ids.npy`, `top_log_probabilities.npy` | int32, float32 [P, k] | the k likeliest tokens, in nat |
| `tail.npy` | float32 [P] | probability of all other tokens together |
| `hidden.npy` | float32 [T, hidden] | encoders have this in place of the four above: the last hidden state |
| `parity_ids.npy`, `parity_lengths.npy` | int64 [Σ lengths], [rows] | fixed inputs, each computed alone |
| `parity_outputs.npy` | float32 [Σ lengths, vocabulary or hidden] | logits or last hidden state for them |
| `source_ids.npy`, `source_lengths.npy` | int64 [sources], [W] | the sources of windows that are targets |
| `parity_source_ids.npy`, `parity_source_lengths.npy` | int64 [sources], [rows] | those of fixed inputs |

The windows of an encoder-decoder are targets, each with its start token as the first, and it alone has the
last four files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import CorruptError
from .logits import TopK
from .tokens import Windows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.outbox import Outbox

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

SCHEMA = "ingot/logits/v1"
DESCRIPTION = "logits.json"


@dataclass(frozen=True, eq=False)
class Rows:
    """Token sequences one after another and what the model gave for each alone, without padding or past.

    ids: int64 [total].  lengths: int64 [rows].  outputs: float32 [total, vocabulary or hidden].
    sources: what each row is the target of, where it is one.
    """

    ids: Ids
    lengths: Ids
    outputs: Floats
    sources: Windows | None = None

    def row(self, number: int) -> tuple[Ids, Floats]:
        """One sequence [length] and its outputs [length, width]."""
        start = int(self.lengths[:number].sum())
        stop = start + int(self.lengths[number])
        return self.ids[start:stop], self.outputs[start:stop]


@dataclass(frozen=True, eq=False)
class Logits:
    """What a model predicts for windows of text.

    task: `causal-lm` and `seq2seq-lm` (nll and top are there) or `encoder` (hidden is).  width: tokens of a
    full window.  vocabulary: of the model.  data: SHA-256 of the text's file.  sources: of windows that are
    targets; pairs: how they came about, and cut: how many lost their end.
    """

    task: str
    width: int
    vocabulary: int
    data: str
    windows: Windows
    parity: Rows
    nll: Floats | None = None
    top: TopK | None = None
    hidden: Floats | None = None
    sources: Windows | None = None
    pairs: str = ""
    cut: int = 0

    def facts(self) -> dict[str, object]:
        """What `logits.json` says, and the artifact's facts."""
        of_pairs: dict[str, object] = {}
        if self.sources is not None:
            of_pairs = {"pairs": self.pairs, "cut": self.cut, "source_tokens": self.sources.tokens}
        return {
            "task": self.task,
            "window": self.width,
            "vocabulary": self.vocabulary,
            "evaluation": self.data,
            "windows": self.windows.count,
            "tokens": self.windows.tokens,
            "documents": self.windows.documents,
            "top_k": 0 if self.top is None else int(self.top.ids.shape[1]),
            **of_pairs,
        }


def write(logits: Logits, output: Outbox) -> None:
    """Writes the files above into a payload."""
    import numpy as np

    output.write_json(DESCRIPTION, {"schema": SCHEMA, **logits.facts()})
    for name, array in _arrays(logits).items():
        with output.create(f"{name}.npy") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _arrays(logits: Logits) -> dict[str, npt.NDArray[Any]]:
    windows, parity = logits.windows, logits.parity
    arrays: dict[str, npt.NDArray[Any] | None] = {
        "ids": windows.ids,
        "lengths": windows.lengths,
        "document": windows.document,
        "nll": logits.nll,
        "hidden": logits.hidden,
        "parity_ids": parity.ids,
        "parity_lengths": parity.lengths,
        "parity_outputs": parity.outputs,
    }
    for name, sources in (("source", logits.sources), ("parity_source", parity.sources)):
        if sources is not None:
            arrays |= {f"{name}_ids": sources.ids, f"{name}_lengths": sources.lengths}
    if logits.top is not None:
        arrays["top_ids"] = logits.top.ids
        arrays["top_log_probabilities"] = logits.top.log_probabilities
        arrays["tail"] = logits.top.tail
    return {name: array for name, array in arrays.items() if array is not None}


def read(directory: Path) -> Logits:
    """The logits whose payload is ``directory``, mapped; raises CorruptError when files and counts
    disagree.
    """
    import numpy as np

    def load(name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array

    try:
        about = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        predicts, document = about["task"] != "encoder", load("document")
        found = Logits(
            str(about["task"]),
            int(about["window"]),
            int(about["vocabulary"]),
            str(about["evaluation"]),
            Windows(load("ids"), load("lengths"), document),
            Rows(load("parity_ids"), load("parity_lengths"), load("parity_outputs")),
            load("nll") if predicts else None,
            TopK(load("top_ids"), load("top_log_probabilities"), load("tail")) if predicts else None,
            None if predicts else load("hidden"),
        )
        if "pairs" in about:
            rows = np.arange(len(found.parity.lengths))
            found = replace(
                found,
                sources=Windows(load("source_ids"), load("source_lengths"), document),
                parity=replace(
                    found.parity,
                    sources=Windows(load("parity_source_ids"), load("parity_source_lengths"), rows),
                ),
                pairs=str(about["pairs"]),
                cut=int(about["cut"]),
            )
        _check(found, about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"the logits cannot be read: {error}", where=str(directory)) from None
    return found


def _check(logits: Logits, about: Mapping[str, object]) -> None:
    if about["schema"] != SCHEMA:
        raise ValueError(f"schema {about['schema']!r} is not {SCHEMA!r}")
    windows = logits.windows
    predictions = windows.tokens - windows.count
    expected = {"ids": int(windows.lengths.sum()), "document": windows.count}
    lengths = {"ids": len(windows.ids), "document": len(windows.document)}
    if logits.nll is not None and logits.top is not None:
        for name, array in (("nll", logits.nll), ("top_ids", logits.top.ids), ("tail", logits.top.tail)):
            expected[name], lengths[name] = predictions, len(array)
    if logits.hidden is not None:
        expected["hidden"], lengths["hidden"] = windows.tokens, len(logits.hidden)
    if logits.sources is not None:
        sources = logits.sources
        expected["source_lengths"], lengths["source_lengths"] = windows.count, sources.count
        expected["source_ids"], lengths["source_ids"] = int(sources.lengths.sum()), sources.tokens
    for name, count in expected.items():
        if lengths[name] != count:
            raise ValueError(f"{name} has {lengths[name]} entries, not {count}")
    if about["windows"] != windows.count:
        raise ValueError(f"{windows.count} windows, not {about['windows']}")
