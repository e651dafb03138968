"""Whether a tokenizer is there, is plain data, fits its embedding, and ends on any text.

`load` asks this of a checkpoint, and whoever opens a delivery asks it again: who made it is not known.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import IntakeError
from .checkpoint import TOKENIZER_FILE, TOKENIZER_FILES, read_object
from .patterns import MOST_PATTERNS, catastrophe, patterns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tokenizers import Tokenizer

PROBE = f"{__package__}.probe"


def checked_tokenizer(directory: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a directory that nobody has checked, once it passed what `load` asks of one.

    Raises IntakeError as :func:`check_tokenizer` and :func:`check_readable` do.
    """
    from .tokens import load_tokenizer

    check_tokenizer(directory, vocabulary)
    check_readable(directory / TOKENIZER_FILE, directory / TOKENIZER_FILE)
    return load_tokenizer(directory)


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


def check_readable(copy: Path, source: Path) -> None:
    """Raises IntakeError for a tokenizer.json that the tokenizers library does not take, or that fails or
    takes too long on plain text; source: what it is a copy of, for messages.

    It is tried in a process of its own, since its patterns run in code that cannot be interrupted.
    """
    command = [sys.executable, "-P", "-m", PROBE, str(copy)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    if done.returncode == 0:
        fault = json.loads(done.stdout).get("error")
    elif -done.returncode in (signal.SIGXCPU, signal.SIGKILL):
        fault = "takes longer on a page of text than anybody waits"
    else:
        fault = f"cannot be tried: the process ended with status {done.returncode}"
    if fault:
        raise IntakeError(
            f"tokenizer.json {fault}",
            where=str(source),
            fix="save it again with the transformers that is installed here, or take the released one",
        )


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
