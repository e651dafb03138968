"""Whether a checkpoint's tokenizer is there, is plain data, and fits its embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.errors import IntakeError
from ..model.checkpoint import TOKENIZER_FILE, TOKENIZER_FILES, read_object
from ..model.patterns import MOST_PATTERNS, catastrophe, patterns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def check_tokenizer(directory: Path, vocabulary: int) -> None:
    """Raises IntakeError when tokenizer.json is missing or malformed, has a token beyond the embedding's rows
    (``vocabulary``) or a pattern that can take longer than anybody waits, or when the tokenizer needs code of
    its own.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise no_tokenizer(directory)
    settings = directory / "tokenizer_config.json"
    if settings.is_file() and "auto_map" in read_object(settings):
        raise IntakeError(
            "auto_map: the tokenizer needs code of its own, which is never run", where=str(settings)
        )
    tokenizer = read_object(path)
    highest, token = max(token_ids(tokenizer, str(path)), default=(-1, ""))
    if highest < 0:
        raise IntakeError("tokenizer.json has no tokens", where=str(path))
    if highest >= vocabulary:
        raise IntakeError(
            f"the tokenizer is larger than the vocabulary: {token!r} has id {highest}, "
            f"but vocab_size is {vocabulary}",
            where=str(path),
            fix="take the tokenizer that belongs to the weights, or resize the model's embedding",
        )
    check_patterns(tokenizer, str(path))


def check_patterns(tokenizer: Mapping[str, Any], where: str) -> None:
    """Raises IntakeError for a regular expression that can take exponential time, or for too many of them."""
    for number, pattern in enumerate(patterns(tokenizer)):
        reason = catastrophe(pattern) if number < MOST_PATTERNS else f"is one of over {MOST_PATTERNS}"
        if reason:
            raise IntakeError(
                f"tokenizer.json: the pattern {pattern[:80]!r} {reason}",
                where=where,
                fix="take the tokenizer that was released with the model",
            )


def token_ids(tokenizer: Mapping[str, Any], where: str) -> Iterator[tuple[int, str]]:
    """The id and text of every token of a tokenizer.json; raises IntakeError for another form."""
    try:
        yield from _vocabulary(tokenizer["model"]["vocab"])
        for entry in tokenizer.get("added_tokens") or []:
            yield _natural(entry["id"]), str(entry["content"])
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise IntakeError(f"tokenizer.json is malformed: {error}", where=where) from error


def _vocabulary(vocabulary: object) -> Iterator[tuple[int, str]]:
    """BPE, WordPiece and WordLevel map texts to ids; Unigram lists a text and its score for each id."""
    if isinstance(vocabulary, dict):
        return ((_natural(number), token) for token, number in vocabulary.items())
    if isinstance(vocabulary, list):
        return ((number, str(pair[0])) for number, pair in enumerate(vocabulary))
    raise TypeError("model.vocab is neither a mapping nor a list")


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not a token's id")
    return value


def no_tokenizer(directory: Path) -> IntakeError:
    """Why a directory without tokenizer.json cannot be loaded, and what to do with what it has instead."""
    others = [name for name in TOKENIZER_FILES if (directory / name).is_file()]
    have = f", only {', '.join(others)}" if others else ""
    return IntakeError(
        f"there is no {TOKENIZER_FILE}{have}",
        where=str(directory),
        fix="save it once with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
    )
