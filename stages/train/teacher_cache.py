"""What a teacher predicts for the training text, kept on disk, so that it runs once over every window.

Files and meaning are those of logits (`stages/model/logits_store.py`): `top_ids.npy`,
`top_log_probabilities.npy` and `tail.npy` over all predictions of all windows, here of targets alone and at
the temperature of the distillation. They fill as windows come; a checksum by window in `sums.npy` says which
are there, so that a run which was killed takes up whatever it wrote whole.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .divergence import Likeliest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from .text import Windows

FILES = {"top_ids": np.int32, "top_log_probabilities": np.float32, "tail": np.float32}


class Cache:
    """Predictions by window. directory: empty, or of an earlier run on the same windows and teacher."""

    def __init__(self, directory: Path, windows: Windows, k: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        counts = windows.predicted.sum(axis=1)
        self._stops = np.cumsum(counts)
        self._starts = self._stops - counts
        total = int(self._stops[-1])
        shapes = {"top_ids": (total, k), "top_log_probabilities": (total, k), "tail": (total,)}
        self._arrays = {
            name: _opened(directory / f"{name}.npy", dtype, shapes[name]) for name, dtype in FILES.items()
        }
        self._sums = _opened(directory / "sums.npy", np.uint32, (windows.count,))

    def get(self, which: torch.Tensor, device: torch.device) -> Likeliest | None:
        """What is kept of the predictions of windows, in their order; None where one of them is missing."""
        numbers = which.tolist()
        if not all(self._sums[number] and self._sums[number] == self._sum(number) for number in numbers):
            return None
        found = {
            name: torch.from_numpy(np.concatenate([array[self._rows(number)] for number in numbers])).to(
                device
            )
            for name, array in self._arrays.items()
        }
        return Likeliest(found["top_ids"].long(), found["top_log_probabilities"], found["tail"])

    def put(self, which: torch.Tensor, found: Likeliest) -> None:
        """Keeps the predictions of windows."""
        begin = 0
        for number in which.tolist():
            rows = self._rows(number)
            place = slice(begin, begin + rows.stop - rows.start)
            begin = place.stop
            self._arrays["top_ids"][rows] = found.ids[place].cpu().numpy()
            self._arrays["top_log_probabilities"][rows] = found.log_probabilities[place].cpu().numpy()
            self._arrays["tail"][rows] = found.tail[place].cpu().numpy()
            self._sums[number] = self._sum(number)

    def _rows(self, number: int) -> slice:
        return slice(int(self._starts[number]), int(self._stops[number]))

    def _sum(self, number: int) -> int:
        """A checksum of a window's predictions; never 0, which stands for what was not written."""
        found = 0
        for array in self._arrays.values():
            found = zlib.crc32(np.ascontiguousarray(array[self._rows(number)]).data, found)
        return found or 1


def _opened(path: Path, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The array of a file, mapped for writing; a new one of zeros where there is none of that form."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
        if array.dtype == dtype and array.shape == shape:
            return array
    except (OSError, ValueError):
        pass
    return np.lib.format.open_memmap(path, "w+", dtype, shape)
