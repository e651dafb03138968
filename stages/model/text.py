"""Text files as documents: JSON lines with a `text` each, or plain text with a mark between documents."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ...artifacts.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

MARK = "<|endoftext|>"
_MARK_LINE = re.compile(rf"^[ \t]*{re.escape(MARK)}[ \t]*\r?$", re.MULTILINE)


def read_documents(path: Path) -> list[str]:
    """The documents of a text file, in order; those of white space alone are left out.

    A file named `*.jsonl` has one `{"text": ...}` a line. Any other file is plain UTF-8 text, whose documents
    stand between lines `<|endoftext|>`; without such a line it is one undivided text. Raises DataError for a
    file that cannot be read, is not of its form, or holds no text.
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
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the text is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            where=where,
            fix="save the file in UTF-8",
        ) from None
    parts = _json_lines(text, where) if where.lower().endswith(".jsonl") else _MARK_LINE.split(text)
    documents = [part for part in parts if part.strip()]
    if not documents:
        raise DataError("the file holds no text", where=where)
    return documents


def _json_lines(text: str, where: str) -> list[str]:
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"the line is not JSON: {error}", where=place) from None
        document = value.get("text") if isinstance(value, dict) else None
        if not isinstance(document, str):
            raise DataError('the line has no "text"', where=place, fix='write one {"text": "..."} a line')
        documents.append(document)
    return documents
