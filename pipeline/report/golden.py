"""Golden prompts side by side: what the reference says, and each target from where it says another thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..units import THIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..measurements import Golden, Parting
    from .model import RunReport

END, SPACE, BREAK = "end of text", "␣", "↵"


@dataclass(frozen=True)
class GoldenRow:
    """One target's text after a prompt.

    before, marked, after: the text, all empty where it is the reference's; ``marked`` is the token by which
    it parts.  remark: where that is, and how sure the reference was.
    """

    target: str
    before: str
    marked: str
    after: str
    remark: str


@dataclass(frozen=True)
class GoldenText:
    """A prompt, how the reference goes on from it, and how every target does."""

    prompt: str
    reference: str
    rows: tuple[GoldenRow, ...]


def golden_texts(report: RunReport) -> list[GoldenText]:
    """The prompts of a run in their order; none for models that do not write."""
    texts: dict[str, list[tuple[str, Golden]]] = {}
    for target in report.targets.values():
        for text in target.golden:
            texts.setdefault(text.prompt, []).append((target.name, text))
    return [
        GoldenText(prompt, _reference(text for _, text in found), tuple(_row(*each) for each in found))
        for prompt, found in texts.items()
    ]


def _row(target: str, text: Golden) -> GoldenRow:
    part = text.value
    if part is None:
        return GoldenRow(target, "", "", "", remark(text))
    marked = part.token.strip()
    # The space before a word is not what differs.
    gap = part.token[: len(part.token) - len(part.token.lstrip())] if marked else ""
    before = (text.common + gap).lstrip()
    return GoldenRow(target, before, marked or visible(part.token), part.rest, remark(text))


def remark(text: Golden) -> str:
    """``the same 24 tokens``, or where it parts and what the reference gave both tokens."""
    if text.error:
        return text.error
    if text.reference is None or text.value is None:
        return f"the same {text.tokens} tokens"
    place = f"parts at token {text.agreed + 1} of {text.tokens}" if text.agreed else "parts at once"
    return f"{place}: the reference gave its own {_share(text.reference)}, this one {_share(text.value)}"


def visible(token: str) -> str:
    """A token without a letter as something that can be seen and marked."""
    return token.replace("\n", BREAK).replace(" ", SPACE) or END


def _share(part: Parting) -> str:
    return (
        "next to nothing" if part.probability is None else f"{part.probability:.0%}".replace("%", f"{THIN}%")
    )


def _reference(texts: Iterable[Golden]) -> str:
    """What the reference says, which every target's comparison holds."""
    for text in texts:
        if not text.error:
            part = text.reference
            return (text.common + (part.token + part.rest if part else "")).lstrip()
    return ""
