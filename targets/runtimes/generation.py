"""Generating text: tokens are chosen for all rows of a batch together until the last row ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from . import sampling as sampling_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from .base import Sampling

    Ids = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]
    # Given the tokens chosen last and which rows go on (None at the start): logits [rows, vocabulary].
    Advance = Callable[[tuple[Ids, Bools] | None], Floats]


def generate(
    advance: Advance, room: Sequence[int], ends: Sequence[int], sampling: Sampling, first: int | None = None
) -> list[list[int]]:
    """New tokens of each row.

    advance: gives the logits of the next token.  room: the most tokens of each row.  ends: tokens before
    which a row ends.  first: what every row begins with, whatever its logits.  Each row draws from its own
    random stream, so what else is in the batch does not change it. Raises InputError for a setting of
    ``sampling`` out of its range.
    """
    import numpy as np

    sampling_rules.check(sampling)
    rows: list[list[int]] = [[] for _ in room]
    space = np.asarray(room)
    streams = [np.random.default_rng((sampling.seed, row)) for row in range(len(rows))]
    running = np.ones(len(rows), bool)
    last: tuple[Ids, Bools] | None = None
    for count in range(1, sampling.max_new_tokens + 1):
        logits = advance(last)
        draws = np.array([stream.random() for stream in streams])
        tokens = sampling_rules.next_tokens(logits, sampling, draws)
        if first is not None and count == 1:
            tokens = np.full_like(tokens, first)
        running &= ~np.isin(tokens, ends)
        for row in np.flatnonzero(running):
            rows[row].append(int(tokens[row]))
        running &= space > count
        if not running.any():
            break
        last = (tokens, running.copy())
    return rows


def left_padded(prompts: Sequence[Sequence[int]], context: int, padding: int) -> tuple[Ids, Ids]:
    """Prompts as ids and mask int64 [batch, longest], padded on the left with the id ``padding``.

    Raises InputError for an empty prompt and for one that leaves no room in the context.
    """
    import numpy as np

    longest = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), longest), padding, np.int64)
    mask = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {row + 1} is empty", fix="give at least one token")
        if len(prompt) >= context:
            raise InputError(
                f"prompt {row + 1} has {len(prompt)} tokens, the model's context {context}",
                fix=f"give at most {context - 1}, so that one can follow",
            )
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
