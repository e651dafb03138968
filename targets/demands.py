"""What a build asks of a device, held against the device's limits: each rule has a name, and a remedy.

Compute capabilities as NVIDIA states them (CUDA C++ Programming Guide, compute capabilities; TensorRT support
matrix): tensor cores take int8 and int4 weights from 8.0 on here, bfloat16 from 8.0, fp8 from 8.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .limits import PLACES, WIDTHS, Limits, Verify

if TYPE_CHECKING:
    from collections.abc import Iterator

# The lowest compute capability, times ten, on which a runtime computes with an element type.
LOWEST_SM = {"bfloat16": 80, "int4": 80, "fp8": 89}
# Codes as they are stored; scales come on top, so what is found is a lower bound.
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "int4": 4, "nf4": 4, "int3": 4, "int2": 2}


@dataclass(frozen=True)
class Demand:
    """What is asked. widths: of the weights and, beside them, of all else that is computed with.

    parameters: of the network, 0 where unknown.  context: the model's longest sequence, None where unknown.
    """

    widths: tuple[str, ...]
    parameters: int = 0
    context: int | None = None


@dataclass(frozen=True)
class Broken:
    """A rule that does not hold. rule: its name.  what: the demand and the limit.  fix: what to do."""

    rule: str
    what: str
    fix: str


def broken(demand: Demand, limits: Limits, verify: Verify, sizes: dict[str, int]) -> Iterator[Broken]:
    """The rules that a demand breaks.

    sizes: `device_memory` and `artifact_size` in bytes, as far as the limits say them.
    """
    for width in demand.widths:
        yield from _dtype(width, limits)
    yield from _memory(demand, sizes)
    shortest = min(verify.sequence or (0,))
    if demand.context is not None and shortest > demand.context:
        yield Broken(
            "verify.sequence",
            f"sequences of {shortest} tokens are to be validated, the model's context is {demand.context}",
            f"set verify: {{sequence: [{demand.context}]}} in a profile of your own that extends it",
        )


def _dtype(width: str, limits: Limits) -> Iterator[Broken]:
    element = WIDTHS.get(width)
    if not element:
        return
    lowest = LOWEST_SM.get(element, 0)
    if limits.sm is not None and limits.sm < lowest:
        yield Broken(
            f"sm.{element}",
            f"{width} needs compute capability {_capability(lowest)} or later, the device has "
            f"{_capability(limits.sm)}",
            f"quantize to another width, or choose a target of SM {lowest} or later",
        )
    elif limits.dtypes is not None and element not in limits.dtypes:
        yield Broken(
            f"dtype.{element}",
            f"{width} needs {element}, the device computes with {', '.join(limits.dtypes)}",
            "choose one of those",
        )


def _memory(demand: Demand, sizes: dict[str, int]) -> Iterator[Broken]:
    width = demand.widths[0]
    needed = demand.parameters * BITS.get(width, 0) // 8
    names = {"device_memory": "memory.device", "artifact_size": "size.artifact"}
    for name, rule in names.items():
        limit = sizes.get(name)
        if limit is not None and needed > limit:
            yield Broken(
                rule,
                f"{demand.parameters:,} parameters of {width} take {needed:,} bytes at least, "
                f"{name.replace('_', ' ')} is {limit:,}",
                "quantize to fewer bits, prune it, or choose a larger device",
            )


def check_places(verify: Verify) -> tuple[str, ...]:
    """The words in `places` that are none."""
    return tuple(word for words in (verify.places or {}).values() for word in words if word not in PLACES)


def _capability(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"
