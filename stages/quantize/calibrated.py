"""What quantizers that look at activations share: their parameters, and for which weights they look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model.calibration.calibrate import CalibratedParams, TextParams
from .formats import WeightParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.families import Architecture
    from ..model.quantized import WeightSpec

# The output head is rounded beside the walk from so many bits on: there is nothing left to make up for.
FINE_BITS = 8


@dataclass(frozen=True)
class TextWeightParams(TextParams, WeightParams):
    """Parameters of every quantizer that looks at a calibration text."""


@dataclass(frozen=True)
class CalibratedWeightParams(CalibratedParams, WeightParams):
    """Parameters of every quantizer that takes the text through the network by itself."""


def walked(model: Architecture, specs: Mapping[str, WeightSpec]) -> set[str]:
    """The linear weights of ``specs`` for which the text is taken through the network."""
    linears = [linear for linear in model.linears if linear.name in specs]
    return {
        linear.name
        for linear in linears
        if linear.layer is not None or specs[linear.name].format.bits < FINE_BITS
    }
