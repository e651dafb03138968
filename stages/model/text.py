"""Text files as documents: JSON lines with a `text` each, or plain text with a mark between documents.

JSON lines may instead hold pairs, a `source` and the `target` that an encoder-decoder is to make of it; to
all other models a pair is a document of both, one below the other. Texts that are not measured may also be
`messages` of a chat, which a model reads by its template, or the `input_ids` of tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

MARK = "<|endoftext|>"
_MARK_LINE = re.compile(rf"^[ \t]*{re.escape(MARK)}[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Pair:
    """A source and its target, both texts."""

    source: str
    target: str


@dataclass(frozen=True)
class Chat:
    """Messages, each with a `role` and its `content`."""

    messages: tuple[Mapping[str, object], ...]
    where: str


@dataclass(frozen=True)
class Tokens:
    """A document that is tokenized already."""

    ids: tuple[int, ...]


Line = str | Pair | Chat | Tokens


def read_documents(path: Path) -> list[str]:
    """The documents of a text file, in order; those of white space alone are left out.

    A file named `*.jsonl` has one `{"text": ...}` a line, or one `{"source": ..., "target": ...}`. Any other
    file is plain UTF-8 text, whose documents stand between lines `<|endoftext|>`; without such a line it is
    one undivided text. Raises DataError for a file that cannot be read, is not of its form, or holds no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the text file cannot be read: {error.strerror}", where=str(path)) from None
    return parse_documents(data, str(path))


def parse_documents(data: bytes, where: str) -> list[str]:
    """Like :func:`read_documents`, from a file's bytes; ``where`` is its path, for its ending and for
    messages.
    """
    text = _decoded(data, where)
    if where.lower().endswith(".jsonl"):
        parts = [as_text(line) for line in _json_lines(text, where)]
    else:
        parts = _MARK_LINE.split(text)
    documents = [part for part in parts if part.strip()]
    if not documents:
        fix = 'write plain text, or lines such as {"text": "..."}'
        raise DataError("the file holds no text", where=where, fix=fix)
    return documents


def parse_lines(data: bytes, where: str) -> list[Line]:
    """The documents of a file as they are written; of any but JSON lines, the texts. Raises DataError as
    above.
    """
    if where.lower().endswith(".jsonl"):
        return _json_lines(_decoded(data, where), where)
    return list(parse_documents(data, where))


def parse_pairs(data: bytes, where: str) -> list[Pair]:
    """The pairs of a file, in order; none where it holds documents. Raises DataError as the functions above
    do, for a file with both, and for a pair of which one side is empty.
    """
    if not where.lower().endswith(".jsonl"):
        return []
    lines = _json_lines(_decoded(data, where), where)
    pairs = [line for line in lines if isinstance(line, Pair)]
    if pairs and len(pairs) < len(lines):
        raise DataError(
            f"{len(pairs)} of {len(lines)} lines are pairs, the others documents",
            where=where,
            fix='write a "source" and a "target" in every line, or a "text" in every line',
        )
    return pairs


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the text is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            where=where,
            fix="save the file in UTF-8",
        ) from None


def as_text(line: Line) -> str:
    """A document as text, for what knows neither templates nor tokens."""
    match line:
        case Pair(source, target):
            return f"{source}\n{target}"
        case Chat(messages):
            return "\n".join(str(message["content"]) for message in messages)
        case Tokens(ids):
            return " ".join(map(str, ids))
    return line


def _json_lines(text: str, where: str) -> list[Line]:
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    documents: list[Line] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"the line is not JSON: {error}", where=place) from None
        documents.append(_entry(value if isinstance(value, dict) else {}, place))
    return documents


def _entry(value: dict[str, object], where: str) -> Line:
    if "messages" in value:
        return _chat(value["messages"], where)
    if "input_ids" in value:
        return _tokens(value["input_ids"], where)
    text, source, target = (value.get(name) for name in ("text", "source", "target"))
    if isinstance(text, str):
        return text
    if isinstance(source, str) and isinstance(target, str):
        if not source.strip() or not target.strip():
            raise DataError("the source or the target is empty", where=where, fix="leave the line out")
        return Pair(source, target)
    raise DataError(
        'the line has no "text", nor a "source" and a "target"',
        where=where,
        fix='write one {"text": "..."} a line; for pairs, one {"source": "...", "target": "..."}',
    )


def _chat(messages: object, where: str) -> Chat:
    sound = isinstance(messages, list) and all(
        isinstance(each, dict) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
        for each in messages
    )
    if not sound or not messages:
        raise DataError(
            'the "messages" are not a list of a "role" and a "content" each, both texts',
            where=where,
            fix='write {"messages": [{"role": "user", "content": "..."}, ...]}',
        )
    return Chat(tuple(messages), where)  # type: ignore[arg-type]


def _tokens(ids: object, where: str) -> Tokens:
    if not isinstance(ids, list) or not ids or not all(type(each) is int and each >= 0 for each in ids):
        raise DataError('the "input_ids" are not a list of token ids', where=where)
    return Tokens(tuple(ids))
