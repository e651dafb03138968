"""From text to samples: the tokenizer, and windows of tokens, the unit in which everything is measured.

A sample is one non-overlapping window of tokens of one document. What is left at a document's end is a
shorter window, dropped when it has a single token, which predicts nothing. The windows of a document are
not independent, so each carries its document's number, by which intervals resample. A text of one document
alone is taken as a text whose documents nobody marked: every 16 windows count as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from ...artifacts.errors import DataError, IntakeError
from .checkpoint import TOKENIZER_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

    Ids = npt.NDArray[np.int64]

SHORTEST_WINDOW = 2
WINDOWS_PER_UNMARKED_DOCUMENT = 16


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows one after another.

    ids: int64 [total tokens].  lengths, document: int64 [windows], a window's tokens and document number.
    """

    ids: Ids
    lengths: Ids
    document: Ids

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """All tokens together."""
        return len(self.ids)

    @property
    def documents(self) -> int:
        """How many documents have at least one window."""
        import numpy as np

        return len(np.unique(self.document))

    @property
    def starts(self) -> Ids:
        """Where each window begins in ``ids``: int64 [windows]."""
        import numpy as np

        starts: Ids = np.cumsum(self.lengths) - self.lengths
        return starts

    def positions(self, which: Ids) -> Ids:
        """Where the tokens of windows of one length lie in ``ids``: int64 [len(which), length]."""
        import numpy as np

        length = int(self.lengths[which[0]])
        positions: Ids = self.starts[which][:, None] + np.arange(length)
        return positions

    def predictions(self, which: Ids) -> Ids:
        """Where the predictions of windows of one length lie when all are one after another.

        A window's first token is given, not predicted, so a window has length - 1: int64 [len(which),
        length - 1].
        """
        return self.positions(which)[:, :-1] - which[:, None]

    def first(self, tokens: int) -> Windows:
        """The leading windows of at most so many tokens together, one window at least."""
        import numpy as np

        return self.leading(max(1, int(np.searchsorted(np.cumsum(self.lengths), tokens, side="right"))))

    def leading(self, count: int) -> Windows:
        """The first ``count`` windows, or all where there are fewer."""
        lengths = self.lengths[:count]
        return Windows(self.ids[: int(lengths.sum())], lengths, self.document[:count])

    def batches(self, most_tokens: int) -> Iterator[tuple[Ids, Ids]]:
        """Windows of equal length together: (which windows [batch], their ids [batch, length]), longest
        first.

        A batch has at most ``most_tokens`` tokens, or one window where that is longer.
        """
        import numpy as np

        for length in np.unique(self.lengths)[::-1].tolist():
            which = np.flatnonzero(self.lengths == length)
            size = max(1, most_tokens // length)
            for begin in range(0, len(which), size):
                chosen = which[begin : begin + size]
                yield chosen, self.ids[self.positions(chosen)]


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint or delivery, from its tokenizer.json; raises IntakeError without a
    sound one.
    """
    from tokenizers import Tokenizer

    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise IntakeError(
            f"there is no {TOKENIZER_FILE}",
            where=str(directory),
            fix="save the model's tokenizer beside it: transformers' save_pretrained writes the file",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every malformed file
        raise IntakeError(f"the tokenizer cannot be read: {error}", where=str(path)) from None
    # Some files carry the settings of their training; a window has neither.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: Tokenizer, documents: Sequence[str]) -> list[list[int]]:
    """The ids of each document whole, with the special tokens that the tokenizer puts around a text."""
    # The same ids without offsets into the text, which take as long as all else in a long document.
    return [encoded.ids for encoded in tokenizer.encode_batch_fast(list(documents))]


def windows(documents: Sequence[Sequence[int]], length: int) -> Windows:
    """Documents of token ids cut into windows of ``length`` tokens."""
    return pack([[ids[at : at + length] for at in range(0, len(ids), length)] for ids in documents])


def wrapped_windows(tokenizer: Tokenizer, documents: Sequence[str], length: int) -> Windows:
    """Documents as windows of at most ``length`` tokens, each with special tokens around it.

    For encoders, which never see a text without them. Raises DataError when nothing else fits into a window.
    """
    if tokenizer.num_special_tokens_to_add(is_pair=False) >= length:
        raise DataError(f"a window of {length} tokens has no room for text between its special tokens")
    tokenizer.enable_truncation(length)
    try:
        encoded = tokenizer.encode_batch(list(documents))
    finally:
        tokenizer.no_truncation()
    return pack([[whole.ids, *(rest.ids for rest in whole.overflowing)] for whole in encoded])


def pack(documents: Sequence[Sequence[Sequence[int]]], shortest: int = SHORTEST_WINDOW) -> Windows:
    """Windows from the pieces of each document, but for those of fewer than ``shortest`` tokens."""
    import numpy as np

    kept = [
        (number, piece)
        for number, pieces in enumerate(documents)
        for piece in pieces
        if len(piece) >= shortest
    ]
    ids = np.fromiter(chain.from_iterable(piece for _, piece in kept), np.int64)
    lengths = np.array([len(piece) for _, piece in kept], np.int64)
    document = np.array([number for number, _ in kept], np.int64)
    if len(documents) == 1:
        document = np.arange(len(kept), dtype=np.int64) // WINDOWS_PER_UNMARKED_DOCUMENT
    return Windows(ids, lengths, document)


def check_vocabulary(sample: Windows, vocabulary: int) -> None:
    """Raises DataError when a token id is outside the model's vocabulary."""
    if sample.tokens and not 0 <= int(sample.ids.min()) <= (highest := int(sample.ids.max())) < vocabulary:
        raise DataError(
            f"token id {highest} is outside the model's vocabulary of {vocabulary}",
            fix="use the tokenizer that belongs to the model",
        )
