"""The calibration text as batches of token windows, of which a walk takes the same ones every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ....artifacts.digest import digest_bytes
from ....artifacts.errors import DataError
from ..blocks.network import Batch
from ..chat import renderer
from ..pairs import of_lines, of_text
from ..text import Chat, Tokens, as_text, parse_documents, parse_lines, parse_pairs
from ..tokens import check_vocabulary, encode, load_tokenizer, windows, wrapped_windows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenizers import Tokenizer

    from ..families import Architecture
    from ..pairs import Pairs
    from ..tokens import Windows

# Enough rows that a product runs at full speed, few enough that a short text makes work for many threads.
BATCH_TOKENS = 1024


@dataclass(frozen=True, eq=False)
class Samples:
    """Batches of windows of equal length. digest: of all ids and of how they are divided."""

    batches: tuple[Batch, ...]
    windows: int
    tokens: int
    digest: str


def take(
    path: Path, directory: Path, model: Architecture, window: int, most: int, kind: str = "calibration"
) -> Samples:
    """``most`` windows of ``window`` tokens, spread evenly over the text.

    directory: of the tokenizer.  window: fewer tokens where the context is shorter.  kind: what the text is
    for, in messages.  Windows that end early,
    with their document, are taken only where whole ones do not suffice. Raises DataError for a text that
    fills no window and for tokens outside the vocabulary.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the {kind} text cannot be read: {error.strerror}", where=str(path)) from None
    if model.task == "seq2seq-lm":
        return _of_pairs(_pairs(data, path, directory, model, window, kind), model, most)
    tokenizer, width = load_tokenizer(directory), min(window, model.context)
    if model.task == "encoder":
        found = wrapped_windows(tokenizer, parse_documents(data, str(path)), width)
    else:
        found = windows(_ids(tokenizer, data, path, directory), width)
    check_vocabulary(found, model.vocabulary)
    if found.tokens < width:
        raise _too_short(found.tokens, width, path, kind)
    chosen = _chosen(found.lengths, most)
    return _samples([Batch(ids) for ids in _batches(found, chosen)], len(chosen))


def _ids(tokenizer: Tokenizer, data: bytes, path: Path, directory: Path) -> list[list[int]]:
    """The token ids of each document: texts by the tokenizer, chats by the template before it."""
    lines = parse_lines(data, str(path))
    if not any(isinstance(line, Chat | Tokens) for line in lines):
        return encode(tokenizer, parse_documents(data, str(path)))
    render = renderer(directory) if any(isinstance(line, Chat) for line in lines) else None
    documents: list[list[int]] = []
    for line in lines:
        if isinstance(line, Tokens):
            documents.append(list(line.ids))
        elif isinstance(line, Chat) and render is not None:
            # A template writes the special tokens itself.
            text = render(line.messages, line.where)
            documents.append(tokenizer.encode(text, add_special_tokens=False).ids)
        else:
            documents += encode(tokenizer, [as_text(line)])
    return documents


def _pairs(data: bytes, path: Path, directory: Path, model: Architecture, window: int, kind: str) -> Pairs:
    tokenizer, start = load_tokenizer(directory), model.decoder_start or 0
    context = min(model.context, model.encoder.context if model.encoder else model.context)
    if lines := parse_pairs(data, str(path)):
        return of_lines(tokenizer, lines, start, min(window, context))
    found = of_text(tokenizer, parse_documents(data, str(path)), start, window, context)
    tokens = found.sources.tokens + found.targets.tokens
    if tokens < found.width:
        raise _too_short(tokens, found.width, path, kind)
    return found


def _of_pairs(pairs: Pairs, model: Architecture, most: int) -> Samples:
    for part in (pairs.sources, pairs.targets):
        check_vocabulary(part, model.vocabulary)
    sources, targets = pairs.sources, pairs.targets
    # Pairs of one shape go together: one number for both lengths.
    shapes = targets.lengths * (int(sources.lengths.max()) + 1) + sources.lengths
    chosen = _chosen(targets.lengths + sources.lengths, most)
    batches = []
    for shape in np.unique(shapes[chosen])[::-1]:
        alike = chosen[shapes[chosen] == shape]
        size = max(1, BATCH_TOKENS // int(targets.lengths[alike[0]]))
        for begin in range(0, len(alike), size):
            which = alike[begin : begin + size]
            ids = torch.from_numpy(targets.ids[targets.positions(which)])
            batches.append(Batch(ids, torch.from_numpy(sources.ids[sources.positions(which)])))
    return _samples(batches, len(chosen))


def _chosen(lengths: np.typing.NDArray[np.int64], most: int) -> np.typing.NDArray[np.int64]:
    """Which windows are taken, in their order: whole ones first, spread evenly; then the longest others."""
    whole = np.flatnonzero(lengths == lengths.max())
    if len(whole) >= most:
        return whole[np.arange(most) * len(whole) // most]
    longest = np.argsort(-lengths, kind="stable")[:most]
    return np.sort(longest)


def _batches(found: Windows, chosen: np.typing.NDArray[np.int64]) -> Iterator[torch.Tensor]:
    lengths = found.lengths[chosen]
    for length in np.unique(lengths)[::-1].tolist():
        alike = chosen[lengths == length]
        size = max(1, BATCH_TOKENS // length)
        for begin in range(0, len(alike), size):
            yield torch.from_numpy(found.ids[found.positions(alike[begin : begin + size])])


def _samples(batches: list[Batch], count: int) -> Samples:
    parts = []
    for batch in batches:
        for ids in (batch.ids, batch.sources):
            parts += [b"|"] if ids is None else [str(tuple(ids.shape)).encode(), ids.numpy().tobytes()]
    tokens = sum(batch.ids.numel() for batch in batches)
    return Samples(tuple(batches), count, tokens, digest_bytes(b"".join(parts)))


def _too_short(tokens: int, width: int, path: Path, kind: str) -> DataError:
    return DataError(
        f"the {kind} text has {tokens} tokens, fewer than one window of {width}",
        where=str(path),
        fix="give a longer text; statistics want a hundred windows",
    )
