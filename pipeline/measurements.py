"""What validate measured, read back: `measurements.json` (the numbers) and `samples.json` (their parts).

Only the shape is checked here. NaN, empty columns and counts that disagree are values to be judged, by the
gate, which turns each into a failure with its reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
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
class SweepCell:
    """One point of a sweep. sides: model (of `validate.cost`, `reference` and `value`) → `prefill_ms` of all
    sequences together and `decode_ms` of one step of all, the latter not for encoders.
    """

    batch: int
    sequence: int
    sides: Mapping[str, Mapping[str, Quantiles]]

    def tokens_per_second(self, side: str, metric: str) -> float | None:
        """What a side gets done by the median of a metric; None where it has none."""
        found = self.sides.get(side, {}).get(metric)
        if found is None or found.p50 <= 0:
            return None
        tokens = self.batch * (self.sequence if metric == "prefill_ms" else 1)
        return tokens / found.p50 * 1e3


@dataclass(frozen=True)
class Parting:
    """One side of a text where two part: the token there, empty where the side ended, and what follows.

    probability: that the reference gave the token; None where it was not among its likeliest.
    """

    token: str
    rest: str
    probability: float | None = None


@dataclass(frozen=True)
class Golden:
    """How an artifact goes on from a prompt, beside the reference.

    tokens: of the reference.  agreed: how many at the start are the same, and give the text ``common``.
    reference, value: how the two go on from there, None where they are the same.  error: why the artifact
    did not go on at all, empty when it did.
    """

    prompt: str
    tokens: int
    agreed: int = 0
    common: str = ""
    reference: Parting | None = None
    value: Parting | None = None
    error: str = ""


@dataclass(frozen=True)
class Emulated:
    """What one emulated processor made of an artifact.

    metric: perplexity or cosine.  value: through its kernels; host: through those of the machine at hand, on
    the same tokens.  instructions, dot_products: a token of a prompt; decode_instructions: a decoded one,
    None where nothing decodes.  peak_memory_bytes: of the whole process, with the emulator's translated code.
    """

    processor: str
    metric: str
    value: float
    host: float
    tokens: int
    instructions: int
    dot_products: int
    decode_instructions: int | None
    peak_memory_bytes: int


@dataclass(frozen=True)
class Measurements:
    """One `measurements` artifact.

    kind: `quality`, `cost` or `emulated`.  columns: per-window numbers by name, all of one length when sound.
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
    sweep: tuple[SweepCell, ...] = ()
    golden: tuple[Golden, ...] = ()
    emulated: tuple[Emulated, ...] = ()

    @property
    def is_alone(self) -> bool:
        """Whether cost was measured without the reference, which was not at hand."""
        return self.data.get("alone") is True


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
        sweep_cells(document.get("sweep", [])),
        tuple(_golden(_mapping(item)) for item in _list(document.get("golden", []))),
        tuple(_emulated(document)),
    )


def _emulated(document: Mapping[str, object]) -> Iterator[Emulated]:
    """What `validate.emulated_arm` found, a processor each."""
    for name, found in _mapping(document.get("emulated", {})).items():
        entry, host = _mapping(found), _mapping(document["host"])
        (metric, through_host), *_ = host.items()
        yield Emulated(
            name,
            metric,
            _number(entry[metric]),
            _number(through_host),
            _count(_mapping(document["data"])["tokens"]) or 0,
            _count(entry["instructions_per_token"]) or 0,
            _count(entry["dot_products_per_token"]) or 0,
            _count(entry.get("decode_instructions_per_token")),
            _count(entry["peak_memory_bytes"]) or 0,
        )


def sweep_cells(cells: object) -> tuple[SweepCell, ...]:
    """The cells of a sweep from their JSON; raises KeyError, TypeError or ValueError for another shape."""
    return tuple(
        SweepCell(
            _count(cell["batch"]) or 0,
            _count(cell["sequence"]) or 0,
            {
                side: {metric: _quantiles(_mapping(found)) for metric, found in _mapping(metrics).items()}
                for side, metrics in _mapping(cell["sides"]).items()
            },
        )
        for cell in map(_mapping, _list(cells))
    )


def _golden(item: Mapping[str, object]) -> Golden:
    reference, value = (_parting(item.get(side)) for side in ("reference", "value"))
    return Golden(
        str(item["prompt"]),
        _count(item["tokens"]) or 0,
        _count(item.get("agreed")) or 0,
        str(item.get("common", "")),
        reference,
        value,
        str(item.get("error", "")),
    )


def _parting(side: object) -> Parting | None:
    if side is None:
        return None
    found = _mapping(side)
    share = found.get("probability")
    return Parting(str(found["token"]), str(found["rest"]), None if share is None else _number(share))


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
    return [_number(item) for item in _list(value)]


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


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
