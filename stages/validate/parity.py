"""Numerical parity on fixed inputs: the four ways in which a runtime is called must give the same numbers.

The truth is the reference computed for each row alone, without padding and without a past, so that a fault
in the cache, in the mask or in the positions shows as an error, whichever side has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ...targets.runtimes.base import Session
    from ..model.logits_store import Rows

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

ROW_TOKENS = 16
SHORT_ROW_TOKENS = 9
DECODED_TOKENS = 4
SEED = 0


def inputs(vocabulary: int, context: int) -> list[Ids]:
    """Three rows of random tokens: two of 16 and one of 9, which is padded beside the first."""
    import numpy as np

    random = np.random.default_rng(SEED)
    full = min(ROW_TOKENS, context)
    lengths = (full, full, min(SHORT_ROW_TOKENS, max(1, full - 1)))
    return [random.integers(0, vocabulary, length, dtype=np.int64) for length in lengths]


def measure(session: Session, rows: Rows) -> dict[str, dict[str, float]]:
    """For each case, over positions that are no padding: max_error (absolute), top1 (share), positions."""
    first, second, short = (rows.row(number) for number in range(3))
    if session.info.task == "causal-lm":
        cases = {
            "prefill": (_batch(session, [first[0]], "left"), [first[1]]),
            "decode": ([_decoded(session, first[0])], [first[1]]),
            "batch_2": (_batch(session, [first[0], second[0]], "left"), [first[1], second[1]]),
            "batch_2_left_padded": (_batch(session, [short[0], first[0]], "left"), [short[1], first[1]]),
        }
    else:
        cases = {
            "one_row": (_batch(session, [first[0]], "right"), [first[1]]),
            "batch_2": (_batch(session, [first[0], second[0]], "right"), [first[1], second[1]]),
            "batch_2_right_padded": (_batch(session, [short[0], first[0]], "right"), [short[1], first[1]]),
        }
    return {name: difference(found, expected) for name, (found, expected) in cases.items()}


def difference(found: Sequence[Floats], expected: Sequence[Floats]) -> dict[str, float]:
    """Outputs of rows [length, width] against the expected ones; max_error is NaN where any output is."""
    import numpy as np

    got, truth = np.concatenate(list(found)), np.concatenate(list(expected))
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - truth).max()
    same = got.argmax(axis=-1) == truth.argmax(axis=-1)
    return {"max_error": float(error), "top1": float(same.mean()), "positions": len(truth)}


def worst(cases: Mapping[str, Mapping[str, float]]) -> float:
    """The largest error of all cases; NaN when any is."""
    import numpy as np

    return float(np.max([case["max_error"] for case in cases.values()]))


def _batch(session: Session, rows: Sequence[Ids], side: str) -> list[Floats]:
    """Outputs of rows in one batch, padded on a side, without those at padding."""
    import numpy as np

    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    places = [slice(longest - len(row), None) if side == "left" else slice(0, len(row)) for row in rows]
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        ids[number, place], mask[number, place] = row, 1
    outputs = session.logits(ids, mask)
    return [outputs[number, place] for number, place in enumerate(places)]


def _decoded(session: Session, row: Ids) -> Floats:
    """Outputs of a row whose last tokens are given one at a time, with the past of those before."""
    import numpy as np

    split = max(1, len(row) - DECODED_TOKENS)
    outputs, past = session.step(row[None, :split])
    parts = [outputs]
    for position in range(split, len(row)):
        outputs, past = session.step(row[None, position : position + 1], None, past)
        parts.append(outputs)
    whole: Floats = np.concatenate(parts, axis=1)[0]
    return whole
