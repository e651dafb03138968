"""Products of int8 codes on grids that are known beforehand, as QNNPACK computes them.

QNNPACK rounds the output of such a product to 8 bits as well (arXiv:1712.05877, section 2), so each map needs
a grid of its output, which no quantized checkpoint holds: it is the range that a calibration text reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....artifacts.errors import StageError
from .weights import plain_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...model.quantized import QuantizedWeight

LARGEST = 255


class StaticLinear(torch.nn.Module):
    """A map with the codes of a weight [out, in] and int8 inputs on the checkpoint's grid.

    Until :meth:`settle` it computes in float32 with what the codes stand for, and remembers the range that
    its results reach; from then on QNNPACK computes, and rounds them to that range.
    """

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        grid = weight.spec.input
        if grid is None:
            raise StageError(f"{weight.name} has no grid for its input")
        self.scale, self.zero = grid.scale, grid.zero
        self._weight, self._bias = weight, bias
        self._observer: torch.nn.Linear | None = plain_linear(torch.from_numpy(weight.dequantize()), bias)
        self._product: Any = None
        # Zero is exact on every grid.
        self.low = self.high = 0.0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """float32 [..., in] → [..., out]."""
        codes = torch.quantize_per_tensor(values, self.scale, self.zero, torch.quint8)
        if self._observer is None:
            result: torch.Tensor = self._product(codes).dequantize()
            return result
        found: torch.Tensor = self._observer(codes.dequantize())
        self.low = min(self.low, float(found.min()))
        self.high = max(self.high, float(found.max()))
        return found

    def settle(self) -> None:
        """Takes the range that was reached as the grid of the output.

        Raises StageError where nothing was computed before, or what was is not finite.
        """
        from torch.ao.nn.quantized import Linear

        scale = (self.high - self.low) / LARGEST
        if not (np.isfinite(scale) and scale > 0):
            raise StageError(
                f"{self._weight.name} gave {self.low:g} to {self.high:g} on the calibration text"
            )
        out_features, in_features = self._weight.spec.shape
        bias = torch.zeros(out_features) if self._bias is None else self._bias
        module = Linear(in_features, out_features)  # type: ignore[no-untyped-call]
        module.set_weight_bias(packed_codes(self._weight), bias)
        module.scale, module.zero_point = scale, round(-self.low / scale)
        self._product, self._observer = module, None


def packed_codes(weight: QuantizedWeight) -> torch.Tensor:
    """A weight's codes about zero with a scale a row, as torch's quantized modules take them."""
    codes = torch.from_numpy((weight.codes.astype(np.int16) - 128).astype(np.int8))
    scales = torch.from_numpy(weight.scales.reshape(-1).astype(np.float64))
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    made: torch.Tensor = torch._make_per_channel_quantized_tensor(  # noqa: SLF001 - the one way from codes
        codes, scales, zeros, 0
    )
    return made


def settle(
    network: torch.nn.Module, batches: Sequence[torch.Tensor], progress: Callable[[int, int, str], None]
) -> int:
    """Finds the ranges of all outputs on a text, and how many maps have them now.

    batches: ids int64 [windows, tokens]; the network takes a window at a time.
    """
    maps = [module for module in network.modules() if isinstance(module, StaticLinear)]
    with torch.no_grad():
        for number, batch in enumerate(batches):
            progress(number, len(batches), "finding ranges of outputs")
            for row in batch:
                network(row[None])
    for module in maps:
        module.settle()
    return len(maps)
