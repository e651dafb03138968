"""Generating text: tokens are chosen for all rows of a batch together until the last row ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from . import sampling as sampling_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from .base import Cache, Sampling, SessionInfo

    Ids = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]
    # Given the tokens chosen last and which rows go on (None at the start): logits [rows, vocabulary].
    Advance = Callable[[tuple[Ids, Bools] | None], Floats]
    Step = Callable[..., tuple[Floats, Cache]]


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


def generate_by_steps(
    step: Step, prompts: Sequence[Sequence[int]], info: SessionInfo, sampling: Sampling, padding: int
) -> list[list[int]]:
    """New tokens of each prompt, by steps whose masks and ids stand side by side, padded on the left.

    step: as :meth:`Session.step`.  Raises InputError as :func:`generate` and :func:`left_padded` do.
    """
    import numpy as np

    if not prompts:
        return []
    ids, mask = left_padded(prompts, info.context, padding)
    past: Cache | None = None

    def advance(last: tuple[Ids, Bools] | None) -> Floats:
        nonlocal ids, mask, past
        if last is not None:
            tokens, running = last
            # An ended row goes on beside the others; its columns are masked and do not count.
            ids = np.where(running, tokens, padding)[:, None]
            mask = np.concatenate([mask, running[:, None].astype(np.int64)], axis=1)
        logits, past = step(ids, mask, past, logits_from=-1)
        return logits[:, -1]

    room = [info.context - len(prompt) for prompt in prompts]
    return generate(advance, room, info.eos_ids, sampling)


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
