"""Standard output and standard error where the terminal's character set lacks what Ingot writes."""

from __future__ import annotations

import codecs
import io
import sys

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
}


def never_fail() -> None:
    """Lets both streams write the nearest plain character for one that they cannot encode."""
    codecs.register_error(HANDLER, nearest_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def nearest_plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding: what to write for the characters that failed, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    failed = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in failed), error.end
