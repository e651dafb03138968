"""Sums in float64 whose order is fixed, so that the kernels and numpy round alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LANES = 16


def lane_sum(values: npt.NDArray[np.float64]) -> float:
    """The sum of ``values`` [n]: value i goes to lane i % 16, and the lanes are added up, all in order."""
    padded = np.zeros(-(-len(values) // LANES) * LANES)
    padded[: len(values)] = values
    with np.errstate(invalid="ignore"):
        lanes = np.add.reduce(padded.reshape(-1, LANES), axis=0)
        return float(np.add.accumulate(lanes)[-1])


def magnitude_sum(values: npt.NDArray[np.float32]) -> float:
    """The sum of |values| [n], float32: of 64 in a row those 16 apart are added in float32, then as lanes."""
    padded = np.zeros((-(-len(values) // (4 * LANES)), 4, LANES), np.float32)
    np.abs(values, out=padded.reshape(-1)[: len(values)])
    with np.errstate(over="ignore", invalid="ignore"):
        quads = (padded[:, 0] + padded[:, 1]) + (padded[:, 2] + padded[:, 3])
    return lane_sum(quads.reshape(-1).astype(np.float64))
