"""Numerical parity on fixed inputs: the four ways in which a runtime is called must give the same numbers.

The truth is the reference computed for each row alone, without padding and without a past, so that a fault
in the cache, in the mask or in the positions shows as an error, whichever side has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ...targets.runtimes.base import Cache, PairSession, Session
    from .families import Outline
    from .logits_store import Rows

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    # ids [1, length], and of an encoder-decoder its sources, → output [1, length, width].
    Forward = Callable[..., Floats]

ROW_TOKENS = 16
SHORT_ROW_TOKENS = 9
DECODED_TOKENS = 4
SEED, SOURCE_SEED = 0, 1


def inputs(vocabulary: int, context: int) -> list[Ids]:
    """Three rows of random tokens: two of 16 and one of 9, which is padded beside the first."""
    return _rows(vocabulary, context, SEED)


def source_inputs(vocabulary: int, context: int) -> list[Ids]:
    """The source of each of those rows, where they are targets, of the same lengths."""
    return _rows(vocabulary, context, SOURCE_SEED)


def _rows(vocabulary: int, context: int, seed: int) -> list[Ids]:
    import numpy as np

    random = np.random.default_rng(seed)
    full = min(ROW_TOKENS, context)
    lengths = (full, full, min(SHORT_ROW_TOKENS, max(1, full - 1)))
    return [random.integers(0, vocabulary, length, dtype=np.int64) for length in lengths]


def reference_rows(forward: Forward, model: Outline) -> Rows:
    """What a model gives for the fixed inputs, each row alone."""
    import numpy as np

    from .logits_store import Rows
    from .tokens import pack

    rows = inputs(model.vocabulary, model.context)
    lengths = np.array([len(row) for row in rows], np.int64)
    if model.source_context is None:
        outputs = [forward(row[None])[0] for row in rows]
        return Rows(np.concatenate(rows), lengths, np.concatenate(outputs))
    sources = source_inputs(model.vocabulary, model.source_context)
    for row in rows:
        row[0] = model.decoder_start or 0
    outputs = [forward(row[None], source[None])[0] for row, source in zip(rows, sources, strict=True)]
    packed = pack([[source.tolist()] for source in sources], shortest=1)
    return Rows(np.concatenate(rows), lengths, np.concatenate(outputs), packed)


def measure(session: Session, rows: Rows) -> dict[str, dict[str, float]]:
    """For each case, over positions that are no padding: max_error (absolute), top1 (share), positions."""
    first, second, short = (rows.row(number) for number in range(3))
    if session.info.task == "causal-lm":
        cases = {
            "prefill": (_batch(session, [first[0]], "left"), [first[1]]),
            "decode": (
                [_stepped(lambda ids, past: session.step(ids, None, past), first[0])],
                [first[1]],
            ),
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


def measure_pairs(session: PairSession, rows: Rows) -> dict[str, dict[str, float]]:
    """As :func:`measure`, for an encoder-decoder: padding is on the right, of sources and of targets."""
    import numpy as np

    sources = rows.sources
    if sources is None:
        raise StageError("the reference holds no sources of its fixed inputs")
    source_ids = np.split(sources.ids, sources.starts[1:])
    first, second, short = (rows.row(number) for number in range(3))

    def batch(*numbers: int) -> list[Floats]:
        source = session.encode(*_padded([source_ids[number] for number in numbers], "right"))
        targets = [rows.row(number)[0] for number in numbers]
        outputs = session.logits(source, _padded(targets, "right")[0])
        return [output[: len(target)] for output, target in zip(outputs, targets, strict=True)]

    encoded = session.encode(source_ids[0][None])
    cases = {
        "prefill": (batch(0), [first[1]]),
        "decode": (
            [_stepped(lambda ids, past: session.step(encoded, ids, past), first[0])],
            [first[1]],
        ),
        "batch_2": (batch(0, 1), [first[1], second[1]]),
        "batch_2_right_padded": (batch(2, 0), [short[1], first[1]]),
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
    ids, mask = _padded(rows, side)
    outputs = session.logits(ids, mask)
    return [output[kept == 1] for output, kept in zip(outputs, mask, strict=True)]


def _padded(rows: Sequence[Ids], side: str) -> tuple[Ids, Ids]:
    """Rows as ids and mask [rows, longest], padded on a side."""
    import numpy as np

    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


def _stepped(step: Callable[[Ids, Cache | None], tuple[Floats, Cache]], row: Ids) -> Floats:
    """Outputs of a row whose last tokens are given one at a time, with the past of those before."""
    import numpy as np

    split = max(1, len(row) - DECODED_TOKENS)
    outputs, past = step(row[None, :split], None)
    parts = [outputs]
    for position in range(split, len(row)):
        outputs, past = step(row[None, position : position + 1], past)
        parts.append(outputs)
    whole: Floats = np.concatenate(parts, axis=1)[0]
    return whole
