"""SmoothQuant's part of the walk: how large each channel gets in inputs and weights, and the scales from it.

Xiao et al. 2023, SmoothQuant (arXiv:2211.10438), equation 4: s_j = max|X_j|^α / max|W_j|^(1−α) for each input
channel j. Activations are divided by s and weights multiplied, so that both are about equally hard to round.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.fold import folds_within
from .products import relative, some_rows, squared_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.families import Architecture, Linear
    from ..model.fold import Fold
    from ..model.quantized import ActivationGrid
    from .products import Rounding

    Floats = npt.NDArray[np.float32]

INPUT, WEIGHT, SAMPLE = "input_max", "weight_max", "sample"
# Enough to tell whether scales help, little enough to keep for every layer.
SAMPLE_ROWS = 128


class ChannelVisitor:
    """Takes the largest magnitude of every channel; see `calibration/walk.py` on visitors.

    Makes `W.input_max` and `W.weight_max`, float32 [in], and `W.sample`, float32 [at most 128, in], some of
    the rows that were read, of every weight W that is wanted.
    """

    compares = False

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self._tensors: dict[str, npt.NDArray[np.generic]] = {}

    def visit(self, stop: Stop) -> None:
        """Looks at a stop's input and at the weights that read it."""
        linears = [linear for linear in stop.linears if linear.name in self.wanted]
        largest = torch.zeros(linears[0].in_features)
        filled = [batch for batch in stop.inputs if len(batch)]
        if filled:
            found = stop.pool.map(lambda batch: batch.abs().amax(dim=0).float().cpu(), filled)
            largest = functools.reduce(torch.maximum, found)
        sample = some_rows(stop, SAMPLE_ROWS).numpy()
        for linear in linears:
            weight = stop.tensors.original(linear)
            self._tensors[f"{linear.name}.{INPUT}"] = largest.numpy()
            self._tensors[f"{linear.name}.{WEIGHT}"] = weight.abs().amax(dim=0).numpy()
            self._tensors[f"{linear.name}.{SAMPLE}"] = sample

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """What was made since it was last asked."""
        found, self._tensors = self._tensors, {}
        return found, {}


def smoothed(model: Architecture, names: Collection[str]) -> tuple[Fold, ...]:
    """The folds that change no weight but those ``names``, which are quantized, and the routers of mixtures.

    A weight that stays in floating point gains nothing, and stays as it is to the last bit.
    """
    gates = {linear.name for linear in model.gates}
    return tuple(folds_within(model, {*names, *gates}).values())


def scales_of(fold: Fold, found: TensorSource, alpha: float) -> Floats:
    """The scales of a fold, float32 [width], from what :class:`ChannelVisitor` made."""
    inputs, weights = (
        fold.gather(np.max([found.float32(f"{name}.{part}") for name in _seen(fold, found)], axis=0))
        for part in (INPUT, WEIGHT)
    )
    return migration(inputs, weights, alpha)


def product_error(
    fold: Fold,
    scales: Floats,
    found: TensorSource,
    weights: Callable[[Linear], torch.Tensor],
    form: Callable[[Floats], Rounding | ActivationGrid],
) -> float:
    """‖Y − Ŷ‖ / ‖Y‖ over the products of a fold's readers with their samples, rounded behind the scales.

    weights: a map's, float32 [out, in].  form: how an input, float32 [rows, in], is rounded.
    """
    lost, whole = 0.0, 0.0
    factors = fold.expand(scales)
    names = set(_seen(fold, found))
    for linear in fold.readers:
        if linear.name in names:
            inputs = found.float32(f"{linear.name}.{SAMPLE}") / factors
            scaled = weights(linear) * torch.from_numpy(factors)
            squares, square = squared_errors(torch.from_numpy(inputs), [scaled], {"it": form(inputs)})
            lost, whole = lost + squares["it"], whole + square
    return relative(lost, whole)


def _seen(fold: Fold, found: TensorSource) -> list[str]:
    return [linear.name for linear in fold.readers if f"{linear.name}.{INPUT}" in found]


def migration(inputs: Floats, weights: Floats, alpha: float) -> Floats:
    """Equation 4, divided by its geometric mean, which rounding does not see; 1 where a channel is all zeros.

    inputs, weights: the largest magnitudes of each channel, float32 [width], as is the result.
    """
    alive = (inputs > 0) & (weights > 0)
    scales = np.ones(len(inputs), np.float64)
    logs = alpha * np.log(inputs[alive], dtype=np.float64) - (1 - alpha) * np.log(
        weights[alive], dtype=np.float64
    )
    scales[alive] = np.exp(logs - logs.mean()) if len(logs) else 1.0
    return scales.astype(np.float32)
