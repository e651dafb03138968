"""The evaluation text as the samples that are measured: windows, or for an encoder-decoder pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import DataError
from ..model.tokens import Windows

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.families import Outline
    from ..model.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Sample:
    """What is measured. width: tokens of a full window, or of a pair's.

    sources: of windows that are targets, with how they came about (pairs) and how many lost their end (cut).
    """

    windows: Windows
    width: int
    sources: Windows | None = None
    pairs: str = ""
    cut: int = 0


def take(data: bytes, where: str, directory: Path, model: Outline, window: int, max_tokens: int) -> Sample:
    """The samples of a text.

    data: the text's bytes.  where: its path.  directory: of the tokenizer.  window: tokens of a sample, fewer
    where the context is shorter.  max_tokens: only the first samples, of at most so many tokens; 0 is all.
    Raises DataError for a text of fewer tokens than one window has, and for tokens outside the vocabulary.
    """
    from ..model.text import parse_documents
    from ..model.tokens import check_vocabulary, encode, load_tokenizer, windows, wrapped_windows

    if model.task == "seq2seq-lm":
        pairs = _pairs(data, where, directory, model, window)
        for part in (pairs.sources, pairs.targets):
            check_vocabulary(part, model.vocabulary)
        pairs = pairs.first(max_tokens) if max_tokens else pairs
        return Sample(pairs.targets, pairs.width, pairs.sources, pairs.rule, pairs.cut)
    tokenizer = load_tokenizer(directory)
    documents = parse_documents(data, where)
    width = min(window, model.context)
    if model.task == "causal-lm":
        found = windows(encode(tokenizer, documents), width)
    else:
        found = wrapped_windows(tokenizer, documents, width)
    if found.tokens < width:
        raise _too_short(found.tokens, width, where)
    check_vocabulary(found, model.vocabulary)
    return Sample(found.first(max_tokens) if max_tokens else found, width)


def _pairs(data: bytes, where: str, directory: Path, model: Outline, window: int) -> Pairs:
    from ..model.pairs import of_lines, of_text
    from ..model.text import parse_documents, parse_pairs
    from ..model.tokens import load_tokenizer

    tokenizer = load_tokenizer(directory)
    start = model.decoder_start or 0
    most = min(model.context, model.source_context or model.context)
    if lines := parse_pairs(data, where):
        return of_lines(tokenizer, lines, start, min(window, most))
    found = of_text(tokenizer, parse_documents(data, where), start, window, most)
    tokens = found.sources.tokens + found.targets.tokens
    if tokens < found.width:
        raise _too_short(tokens, found.width, where)
    return found


def _too_short(tokens: int, width: int, where: str) -> DataError:
    return DataError(
        f"the evaluation text has {tokens} tokens, fewer than one window of {width}",
        where=where,
        fix="give a longer text; a verdict needs hundreds of windows",
    )
