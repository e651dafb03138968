"""Standard output and standard error: characters that the terminal lacks, and colours that nobody wants."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

HANDLER = "ingot-plain"
# A minus that became a question mark would turn a saving into a riddle.
PLAIN = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{NARROW NO-BREAK SPACE}": " ",
    "\N{HORIZONTAL ELLIPSIS}": "~",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{CHECK MARK}": "+",
    "\N{BALLOT X}": "x",
    "\N{MIDDLE DOT}": "-",
}


def plain(text: str) -> str:
    """``text`` with the nearest plain characters for those that files and mail may garble."""
    return text.translate({ord(letter): words for letter, words in PLAIN.items()})


def never_fail() -> None:
    """Lets both streams write the nearest plain character for one that they cannot encode."""
    codecs.register_error(HANDLER, nearest_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def silence(stream: TextIO) -> None:
    """Lets what is written to a stream go nowhere, once its reader has closed the pipe."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def colour() -> bool | None:
    """False where the person wants none (https://no-color.org); None leaves it to what the stream is."""
    return False if os.environ.get("NO_COLOR") else None


def nearest_plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding: what to write for the characters that failed, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    failed = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in failed), error.end
