"""What validate measured, read back: `measurements.json` (the numbers) and `samples.json` (their parts).

Only the shape is checked here. NaN, empty columns and counts that disagree are values to be judged, by the
gate, which turns each into a failure with its reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..artifacts.errors import CorruptError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "ingot/measurements/v1"
Column = Sequence[float]


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of one side's repeats, in the metric's unit; n is how many there were."""

    p50: float
    p95: float
    p99: float
    n: int


@dataclass(frozen=True)
class Measured:
    """One metric: the reference's number and the artifact's, NaN where the stage could not compute one.

    n: samples (windows or repeats).  tokens, documents: None where they mean nothing.
    """

    name: str
    unit: str
    better: str
    comparison: str
    reference: float
    value: float
    n: int
    tokens: int | None = None
    documents: int | None = None
    distribution: Mapping[str, Quantiles] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurements:
    """One `measurements` artifact.

    kind: `quality` or `cost`.  columns: per-window numbers by name, all of one length when sound.
    repeats: metric → side (`reference`, `value`) → one number a repeat, interleaved in time.
    digest: SHA-256 over both files, which seeds every resampling of them.
    """

    kind: str
    task: str
    metrics: Mapping[str, Measured]
    columns: Mapping[str, Column]
    repeats: Mapping[str, Mapping[str, Column]]
    data: Mapping[str, object]
    environment: Mapping[str, object]
    digest: str


def read(directory: Path) -> Measurements:
    """The measurements whose payload is ``directory``; raises CorruptError when they cannot be read."""
    try:
        documents = [(directory / name).read_bytes() for name in ("measurements.json", "samples.json")]
    except OSError as error:
        raise CorruptError(f"measurements cannot be read: {error.strerror}", where=str(directory)) from None
    return parse(documents[0], documents[1], where=str(directory))


def parse(measurements: bytes, samples: bytes, *, where: str = "measurements.json") -> Measurements:
    """Measurements from the bytes of the two files; raises CorruptError for another shape."""
    try:
        return _parse(json.loads(measurements), json.loads(samples), _digest(measurements, samples))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptError(
            f"measurements of an unknown form ({type(error).__name__}: {error})",
            where=where,
            fix=f"they must follow {SCHEMA}",
        ) from None


def _digest(measurements: bytes, samples: bytes) -> str:
    state = hashlib.sha256(measurements)
    state.update(hashlib.sha256(samples).digest())
    return state.hexdigest()


def _parse(document: dict[str, object], samples: dict[str, object], digest: str) -> Measurements:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r} is not {SCHEMA!r}")
    metrics, kind = document["metrics"], str(document["kind"])
    if not isinstance(metrics, dict) or not isinstance(samples, dict):
        raise TypeError("metrics and samples must be mappings")
    columns: dict[str, Column] = {}
    repeats: dict[str, Mapping[str, Column]] = {}
    for name, value in samples.items():
        if isinstance(value, dict):
            repeats[name] = {side: _column(column) for side, column in value.items()}
        elif isinstance(value, list):
            columns[name] = _column(value)
    return Measurements(
        kind,
        str(document["task"]),
        {name: _measured(name, value) for name, value in metrics.items()},
        columns,
        repeats,
        _mapping(document.get("data", {})),
        _mapping(document.get("environment", {})),
        digest,
    )


def _measured(name: str, value: dict[str, object]) -> Measured:
    distribution = _mapping(value.get("distribution", {}))
    sides = {side: _quantiles(_mapping(quantiles)) for side, quantiles in distribution.items()}
    return Measured(
        name,
        str(value["unit"]),
        str(value["better"]),
        str(value["comparison"]),
        _number(value["reference"]),
        _number(value["value"]),
        _count(value["n"]) or 0,
        _count(value.get("tokens")),
        _count(value.get("documents")),
        sides,
    )


def _quantiles(value: Mapping[str, object]) -> Quantiles:
    p50, p95, p99 = (_number(value[name]) for name in ("p50", "p95", "p99"))
    return Quantiles(p50, p95, p99, _count(value["n"]) or 0)


def _column(value: object) -> Column:
    if not isinstance(value, list):
        raise TypeError("a column of samples must be a list")
    return [_number(item) for item in value]


def _number(value: object) -> float:
    # JSON has no NaN; a stage that could not compute a number writes null.
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a count")
    return value


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not a mapping")
    return value
