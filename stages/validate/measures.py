"""The `measurements` artifact: metrics with their reference, and the samples that they are made of.

JSON has no NaN, and a record must not hide one: a number that is not finite is written as null, and its
metric says `"nan": true`, by which the gate fails.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...artifacts.outbox import Outbox

SCHEMA = "ingot/measurements/v1"
MEASUREMENTS_FILE = "measurements.json"
SAMPLES_FILE = "samples.json"


def metric(
    unit: str, better: str, comparison: str, reference: float | None, value: float, *, n: int, **more: object
) -> dict[str, object]:
    """One metric as JSON; reference: None where there was none to measure.

    better: `lower` or `higher`.  comparison: `relative` (value / reference - 1) or `absolute` (value -
    reference).  n: samples.  more: tokens, documents, distribution.
    """
    record: dict[str, object] = {
        "unit": unit,
        "better": better,
        "comparison": comparison,
        "reference": None if reference is None else number(reference),
        "value": number(value),
        "n": n,
        **more,
    }
    if not all(math.isfinite(side) for side in (reference, value) if side is not None):
        record["nan"] = True
    return record


def number(value: float) -> float | None:
    """A number for JSON: None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None


def column(values: Iterable[float]) -> list[float | None]:
    """Samples for JSON."""
    return [number(value) for value in values]


def write(
    output: Outbox, kind: str, task: str, document: Mapping[str, object], samples: Mapping[str, object]
) -> None:
    """Writes measurements.json and samples.json. document: metrics, data, environment and what else is
    known.
    """
    output.write_json(MEASUREMENTS_FILE, {"schema": SCHEMA, "kind": kind, "task": task, **document})
    output.write_json(SAMPLES_FILE, samples)
