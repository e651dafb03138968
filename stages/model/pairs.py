"""Samples of encoder-decoders: a source that is read, and the target whose tokens are predicted from it.

A file of pairs gives them as they are. Any other text is cut into windows, of which the first half is the
source and the second the target: not what such a model was trained to do, but the same for every artifact of
it, so that the loss of one against the other shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import DataError
from .tokens import Windows, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

    from .text import Pair

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Run = Callable[[Ids, Ids], Floats]

HALVES = "the first half of each window of text is the source, its second half the target"
LINES = "source and target of each line"
# Any token's text will do that is not a special one.
PROBE = "a"


@dataclass(frozen=True, eq=False)
class Pairs:
    """As many sources as targets, one after another.

    targets: each begins with the token that starts a target, so that what it predicts is all the others, as
    in a window of a causal model.  width: the most tokens of a pair that the text gives.  rule: how the pairs
    came about.  cut: how many sources or targets were longer and lost their end.
    """

    sources: Windows
    targets: Windows
    width: int
    rule: str
    cut: int = 0

    def first(self, tokens: int) -> Pairs:
        """The leading pairs whose targets have at most so many tokens together, one pair at least."""
        targets = self.targets.first(tokens)
        return Pairs(self.sources.leading(targets.count), targets, self.width, self.rule, self.cut)


def by_source(run: Run, sources: Windows, which: Ids, targets: Ids) -> list[Floats]:
    """Outputs [length, width] of targets [batch, length], those whose sources are of one length together.

    run: targets [rows, length] and their sources [rows, source] → outputs [rows, length, width].  Nothing is
    padded, so that an output does not depend on what else is in the batch.
    """
    import numpy as np

    found: dict[int, Floats] = {}
    lengths = sources.lengths[which]
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        outputs = run(targets[rows], sources.ids[sources.positions(which[rows])])
        found.update(zip(rows.tolist(), outputs, strict=True))
    return [found[row] for row in range(len(which))]


def of_lines(tokenizer: Tokenizer, lines: Sequence[Pair], start: int, most: int) -> Pairs:
    """Pairs as a file gives them, each a document, with the special tokens that the tokenizer puts around
    both.

    start: the token that starts a target.  most: tokens of a source, and of a target with its start; of
    longer ones, the end is cut off, of a source before its last special token. Raises DataError when special
    tokens alone fill ``most``.
    """
    _check_room(tokenizer, most)
    targets = [[start, *each.ids] for each in tokenizer.encode_batch([line.target for line in lines])]
    whole = [len(each.ids) for each in tokenizer.encode_batch([line.source for line in lines])]
    tokenizer.enable_truncation(most)
    try:
        sources = [each.ids for each in tokenizer.encode_batch([line.source for line in lines])]
    finally:
        tokenizer.no_truncation()
    cut = sum(length > most for length in whole) + sum(len(target) > most for target in targets)
    return Pairs(
        pack([[source] for source in sources], shortest=1),
        pack([[target[:most]] for target in targets], shortest=1),
        most,
        LINES,
        cut,
    )


def of_text(tokenizer: Tokenizer, documents: Sequence[str], start: int, window: int, most: int) -> Pairs:
    """Windows of documents, each cut in two; a rest of two tokens is one too.

    The source has the special tokens around it without which no encoder sees a text; the target, which goes
    on in the middle of one, has its ``start`` alone.  window: tokens of both halves together.  most: tokens
    of a source with its special ones, and of a target with its start. Raises DataError when that leaves no
    room.
    """
    _check_room(tokenizer, most)
    before, after = special_tokens(tokenizer)
    half = min(window // 2, most - max(1, len(before) + len(after)))
    encoded = tokenizer.encode_batch(list(documents), add_special_tokens=False)
    cut = [
        [ids[at : at + 2 * half] for at in range(0, len(ids), 2 * half) if at + 1 < len(ids)]
        for ids in (each.ids for each in encoded)
    ]
    sources = [[[*before, *piece[: len(piece) // 2], *after] for piece in pieces] for pieces in cut]
    targets = [[[start, *piece[len(piece) // 2 :]] for piece in pieces] for pieces in cut]
    return Pairs(pack(sources, shortest=1), pack(targets, shortest=1), 2 * half, HALVES)


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and behind a text."""
    probe = tokenizer.encode(PROBE)
    own = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
    return probe.ids[: own[0]], probe.ids[own[-1] + 1 :]


def _check_room(tokenizer: Tokenizer, most: int) -> None:
    if max(1, tokenizer.num_special_tokens_to_add(is_pair=False)) >= most:
        raise DataError(f"{most} tokens have no room for text between special tokens")
