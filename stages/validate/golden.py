"""Golden prompts: how the reference goes on from a few prompts, and where an artifact parts from it.

Both take the likeliest token at every step. The reference also keeps its likeliest tokens with their
probabilities, so that where the two part one sees whether it was sure or undecided.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import CorruptError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

    from ...artifacts.outbox import Outbox
    from ...targets.runtimes.base import PairSession, Session

    Forward = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]

# A fact, a story, a date: what a model of any size and kind of text can go on from.
PROMPTS = ("The capital of France is", "Once upon a time there was", "In 1969 the first")
FILE = "golden.json"
SCHEMA = "ingot/golden/v1"
KEPT = 5


@dataclass(frozen=True)
class Continuation:
    """How the reference goes on, ends of sequence not heeded.

    prompt_ids: what ``ids`` go on from; an encoder-decoder has the prompt in source_ids, and here the start.
    likeliest: at each step, token ids with their probabilities, falling.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    likeliest: tuple[tuple[tuple[int, float], ...], ...]
    source_ids: tuple[int, ...] = ()


def continued(
    forward: Forward, prompt: str, prompt_ids: Sequence[int], tokens: int, first: int | None = None
) -> Continuation:
    """Goes on from a prompt by ``tokens`` greedy steps, the lowest id among equals.

    forward: ids [1, length] → logits [1, length, vocabulary].  first: what follows whatever the logits.
    Every step computes the whole sequence anew, as the reference computes everything: what caches change is
    for parity to find.
    """
    import numpy as np

    from ..model.logits import Softmax

    ids, likeliest = list(prompt_ids), []
    for _ in range(tokens):
        row = forward(np.array([ids], np.int64))[0, -1:]
        top = Softmax.of(row).top(KEPT)
        chosen = int(row.argmax()) if first is None or len(ids) > len(prompt_ids) else first
        ids.append(chosen)
        shares = np.exp(top.log_probabilities[0].astype(np.float64)).tolist()
        likeliest.append(tuple(zip(top.ids[0].tolist(), (round(share, 6) for share in shares), strict=True)))
    return Continuation(prompt, tuple(prompt_ids), tuple(ids[len(prompt_ids) :]), tuple(likeliest))


def write(rows: Iterable[Continuation], output: Outbox) -> None:
    """Writes `golden.json` into a payload."""
    document = {"schema": SCHEMA, "rows": [vars(row) for row in rows]}
    output.write_json(FILE, document)


def read(directory: Path) -> tuple[Continuation, ...]:
    """The continuations of a payload, none where it has no such file; raises CorruptError for another
    shape.
    """
    path = directory / FILE
    if not path.is_file():
        return ()
    try:
        return _rows(json.loads(path.read_text("utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"the golden prompts cannot be read: {error}", where=str(path)) from None


def _rows(document: dict[str, Any]) -> tuple[Continuation, ...]:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r} is not {SCHEMA!r}")
    return tuple(_row(row) for row in document["rows"])


def _row(row: dict[str, Any]) -> Continuation:
    likeliest = (tuple((int(token), float(share)) for token, share in step) for step in row["likeliest"])
    return Continuation(
        str(row["prompt"]),
        tuple(int(token) for token in row["prompt_ids"]),
        tuple(int(token) for token in row["ids"]),
        tuple(likeliest),
        tuple(int(token) for token in row.get("source_ids", ())),
    )


def compare(session: Session | PairSession, tokenizer: Tokenizer, row: Continuation) -> dict[str, object]:
    """How the artifact goes on from a prompt, beside the reference, as JSON.

    `agreed` of `tokens` steps are the same and give the text `common`. Where the two part, `reference` and
    `value` hold the token there (empty where that side ended), the rest, and the probability that the
    reference gave that token (null where it was not among its likeliest); else both are null. An artifact
    that cannot go on has `error` alone.
    """
    from ...targets.runtimes.base import Sampling

    ends = session.info.eos_ids
    expected = tuple(itertools.takewhile(lambda token: token not in ends, row.ids))
    try:
        found = tuple(session.generate([row.source_ids or row.prompt_ids], Sampling(len(row.ids)))[0])
    except StageError as error:
        # Measured all the same: the gate fails an artifact whose numbers are not finite.
        return {"prompt": row.prompt, "tokens": len(expected), "error": error.what}
    agreed = _shared(expected, found)

    def parted(ids: Sequence[int]) -> dict[str, object]:
        text = _texts(tokenizer, row.prompt_ids, ids, (agreed, agreed + 1, len(ids)))
        wanted = ids[agreed : agreed + 1] or ends
        shares = (share for token, share in row.likeliest[agreed] if token in wanted)
        return {"token": text[1], "rest": text[2], "probability": next(shares, None)}

    is_same = found == expected
    return {
        "prompt": row.prompt,
        "tokens": len(expected),
        "agreed": agreed,
        "common": _texts(tokenizer, row.prompt_ids, expected, (agreed,))[0],
        "reference": None if is_same else parted(expected),
        "value": None if is_same else parted(found),
    }


def _texts(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], ids: Sequence[int], ends: Sequence[int]
) -> list[str]:
    """The text of ``ids`` in pieces that end at those places.

    The prompt is decoded with them, since a space belongs to what stands before it. A character of several
    bytes may end in a later token; until then the text before it differs from the final one. Special tokens
    are shown: two texts that differ in one would else look alike.
    """
    pieces, before = [], tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
    for end in ends:
        whole = tokenizer.decode([*prompt_ids, *ids[:end]], skip_special_tokens=False)
        pieces.append(whole[_shared(before, whole) :])
        before = whole
    return pieces


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    """How many leading items are equal."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
