"""What a report shows of a target beyond its metrics: its weights, its spreads, and what each stage cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightGroup:
    """The weights of one role in one layer; layer: None for those outside of layers.

    width: such as `int4`, or several joined by a comma.  size_bytes: once packed, scales included.
    error: the largest relative error ‖W − Ŵ‖ / ‖W‖ (Frobenius) of its tensors, None where none was rounded.
    """

    role: str
    layer: int | None
    width: str
    tensors: int
    parameters: int
    size_bytes: int
    error: float | None = None


@dataclass(frozen=True)
class TensorError:
    """One rounded tensor; relative_error: ‖W − Ŵ‖ / ‖W‖ (Frobenius)."""

    name: str
    width: str
    parameters: int
    relative_error: float


@dataclass(frozen=True)
class LayerError:
    """How far rounding moved what the weights of one layer give, on the calibration text.

    error, nearest: mean over its weights of ‖(W − Ŵ)X‖ / ‖WX‖, as the method rounded them and as plain
    rounding to the same format would have.  layer: such as `3`, or `encoder 3`.
    """

    layer: str
    error: float
    nearest: float


@dataclass(frozen=True)
class Spread:
    """How samples are spread: side or model → their percentiles 0 to 100, in the metric's unit."""

    metric: str
    unit: str
    sides: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Step:
    """One stage on the way from the source to an artifact.

    size_bytes: of the weights after it, packed.  delta: what quality has changed from the source after it, as
    the metric compares (relative perplexity, absolute cosine); None where it was not measured there.
    measured_by: the target whose measurement that is.
    """

    node: str
    stage: str
    size_bytes: int | None = None
    delta: float | None = None
    measured_by: str = ""


def percentiles(samples: list[float]) -> tuple[float, ...]:
    """The percentiles 0 to 100, by linear interpolation between samples; raises ValueError for none."""
    if not samples:
        raise ValueError("there are no samples")
    ordered = sorted(samples)
    found = []
    for percent in range(101):
        place = (len(ordered) - 1) * percent / 100
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
    return tuple(found)
