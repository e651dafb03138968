"""The details behind a target's numbers: documents one by one, the repeats of timings, and their spread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..metrics import METRICS, place_in_table
from ..summaries import column_fault
from .model import DocumentDelta, Timing
from .parts import Spread, percentiles

if TYPE_CHECKING:
    from ..measurements import Measurements

SIDES = ("reference", "value")
SPREAD = ("prefill_ms", "decode_step_ms")


def document_deltas(quality: Measurements) -> tuple[DocumentDelta, ...]:
    """Each document's own relative change of perplexity, or mean cosine less one for encoders.

    Empty where the samples are unsound, or are of neither kind.
    """
    columns = quality.columns
    if column_fault(columns):
        return ()
    tokens: dict[int, float] = {}
    sums: dict[int, float] = {}
    if "nll_value" in columns and "nll_reference" in columns:
        pairs = zip(columns["nll_value"], columns["nll_reference"], strict=True)
        amounts = [value - reference for value, reference in pairs]
    elif "cosine" in columns:
        pairs = zip(columns["cosine"], columns["tokens"], strict=True)
        amounts = [(cosine - 1) * count for cosine, count in pairs]
    else:
        return ()
    for label, count, amount in zip(columns["document"], columns["tokens"], amounts, strict=True):
        tokens[int(label)] = tokens.get(int(label), 0) + count
        sums[int(label)] = sums.get(int(label), 0) + amount
    change = math.expm1 if "nll_value" in columns else float
    return tuple(
        DocumentDelta(label, int(count), change(sums[label] / count))
        for label, count in sorted(tokens.items())
    )


def timings(cost: Measurements) -> tuple[Timing, ...]:
    """The repeats of every metric of time, as they were measured."""
    return tuple(
        Timing(
            name,
            measured.unit,
            tuple(cost.repeats[name].get("reference", ())),
            tuple(cost.repeats[name].get("value", ())),
            measured.distribution,
        )
        for name, measured in sorted(cost.metrics.items(), key=lambda item: place_in_table(item[0]))
        if name in cost.repeats and name in METRICS and METRICS[name].unit == "ms"
    )


def spreads(cost: Measurements) -> tuple[Spread, ...]:
    """How the times of single prefills and of single decoded tokens are spread, on both sides."""
    return tuple(
        Spread(name, "ms", {side: percentiles(list(cost.repeats[name][side])) for side in SIDES})
        for name in SPREAD
        if all(cost.repeats.get(name, {}).get(side) for side in SIDES)
    )
