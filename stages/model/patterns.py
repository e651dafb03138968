"""Regular expressions of tokenizers: those that can take longer than anybody waits are found in their text.

A matcher that backtracks, as Oniguruma under the tokenizers library does, takes exponential time where a
group repeats without end, can match the same text in more than one way, and something after it can fail:
(a+)+$ is the textbook case (Kirrage, Rathnayake, Thielecke: Static Analysis for Regular Expression
Denial-of-Service Attacks, 2013). This finds such groups. It may refuse one that would do no harm, and does
not find those that are slow for other reasons; what is slow in practice is found by trying (`probe.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_CHARACTERS = 20_000
MOST_PATTERNS = 200
MOST_DEPTH = 50
QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
# After a quantifier: ? asks for the shortest match; + forbids to give back, except after {n,m}, where
# Oniguruma takes it for a second quantifier.
GROUP_OPENING = re.compile(r"\?(?:<?[=!]|[:>]|<\w+>|'\w+'|[a-zA-Z]*(?:-[a-zA-Z]+)?:)")
ATOMIC = ("?>", "?=", "?!", "?<=", "?<!")


@dataclass(frozen=True)
class _Piece:
    """One quantified item. varies: it matches in several ways.  hungry: it repeats what varies, endlessly."""

    varies: bool
    hungry: bool


def catastrophe(pattern: str) -> str | None:
    """Why matching ``pattern`` can take exponential time, or None.

    Also names a pattern that is too long or nested too deep to be looked at.
    """
    if len(pattern) > MOST_CHARACTERS:
        return f"has {len(pattern):,} characters"
    try:
        found = _Reader(pattern).read()
    except RecursionError:
        found = True
    return "repeats without end what can repeat in more than one way" if found else None


def patterns(tokenizer: object) -> Iterator[str]:
    """Every regular expression in a tokenizer.json: the texts under a key `Regex`."""
    waiting: list[Any] = [tokenizer]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            text = value.get("Regex")
            if isinstance(text, str):
                yield text
            # The vocabulary is by far the largest part, and holds no patterns.
            waiting.extend(item for key, item in value.items() if key not in ("vocab", "merges"))
        elif isinstance(value, list):
            waiting.extend(value)


class _Reader:
    """Reads a pattern by recursive descent; it need not know what characters match."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._found = False

    def read(self) -> bool:
        """Whether the pattern has a hungry group with something behind it that can fail."""
        while self._at < len(self._text):
            self._alternatives(0)
            self._at += 1  # an unmatched parenthesis: the library refuses it
        return self._found

    def _alternatives(self, depth: int) -> tuple[bool, bool]:
        """One group's inside: whether it can match in more than one way, and whether it ends hungry."""
        if depth > MOST_DEPTH:
            raise RecursionError
        varies = hungry = False
        while True:
            pieces = self._sequence(depth)
            varies = varies or any(piece.varies for piece in pieces)
            # What can fail behind it is what makes the matcher try every other way.
            self._found = self._found or any(piece.hungry for piece in pieces[:-1])
            hungry = hungry or any(piece.hungry for piece in pieces)
            if not self._text.startswith("|", self._at):
                return varies, hungry
            self._at += 1
            varies = True

    def _sequence(self, depth: int) -> list[_Piece]:
        pieces = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            pieces.append(self._piece(depth))
        return pieces

    def _piece(self, depth: int) -> _Piece:
        varies, hungry = self._atom(depth)
        while (found := QUANTIFIER.match(self._text, self._at)) is not None:
            self._at = found.end()
            low, high = _bounds(found)
            again = self._text[self._at : self._at + 1]
            possessive = again == "+" and found[0][0] != "{"
            self._at += again == "?" or possessive
            hungry = not possessive and (hungry or (varies and high is None))
            varies = not possessive and (varies or low != high)
        return _Piece(varies, hungry)

    def _atom(self, depth: int) -> tuple[bool, bool]:
        """Steps over a character, class or group: whether it varies, and whether it ends hungry."""
        letter = self._text[self._at]
        if letter == "\\":
            self._at += 2
            if self._text[self._at - 1 : self._at + 1] in ("p{", "P{", "x{"):
                end = self._text.find("}", self._at)
                self._at = len(self._text) if end < 0 else end + 1
            return False, False
        if letter == "[":
            self._class()
            return False, False
        self._at += 1
        return self._group(depth) if letter == "(" else (False, False)

    def _group(self, depth: int) -> tuple[bool, bool]:
        if self._text.startswith("?#", self._at):
            end = self._text.find(")", self._at)
            self._at = len(self._text) if end < 0 else end + 1
            return False, False
        opening = GROUP_OPENING.match(self._text, self._at)
        if opening is not None:
            self._at = opening.end()
        atomic = opening is not None and opening[0] in ATOMIC
        varies, hungry = self._alternatives(depth + 1)
        self._at += 1
        return (False, False) if atomic else (varies, hungry)

    def _class(self) -> None:
        """Steps over a character class, with classes inside it."""
        depth = 0
        first = -1
        while self._at < len(self._text):
            letter = self._text[self._at]
            self._at += 2 if letter == "\\" else 1
            if letter == "[":
                depth += 1
                first = self._at + (self._text[self._at : self._at + 1] == "^")
                self._at = first
            elif letter == "]" and self._at - 1 != first:
                depth -= 1
                if depth == 0:
                    return


def _bounds(found: re.Match[str]) -> tuple[int, int | None]:
    """The least and most repetitions of a quantifier; None for any number."""
    sign = found[0][0]
    if sign != "{":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
    low = int(found[1] or 0)
    if not found[2]:
        return low, low
    return low, int(found[3]) if found[3] else None
