"""A merge that is never written: its tensors are made when a network reads them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.dtypes import NAMES
from .making import make

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from .blocks import Workers
    from .method import Method
    from .task import TensorTask

    Floats = npt.NDArray[np.float32]


class MergedTensors:
    """The tensors of a merge as a network reads them: rounded to the dtype they would be stored in.

    methods: those that tasks name.  A tensor is held from when it is first read until it is released.
    """

    def __init__(
        self, tasks: Iterable[TensorTask], methods: Mapping[str, Method], workers: Workers, seed: int
    ) -> None:
        self._tasks = {task.output.name: task for task in tasks}
        self._methods = methods
        self._workers = workers
        self._seed = seed
        self._held: dict[str, Floats] = {}
        self._lock = threading.Lock()

    def float32(self, name: str, rows: slice | None = None) -> Floats:
        """The tensor, or those rows of it, float32, as an array of its own."""
        with self._lock:
            if name not in self._held:
                self._held[name] = self._made(self._tasks[name])
            whole = self._held[name]
        return whole.copy() if rows is None else whole[rows].copy()

    def release(self, name: str) -> None:
        """Lets go of a tensor, and of the pages that making it brought in."""
        self._held.pop(name, None)
        for operand in self._tasks[name].operands():
            operand.release()

    def _made(self, task: TensorTask) -> Floats:
        output, method = task.output, self._methods[task.method]
        stored = np.empty(output.nbytes, np.uint8)
        place = 0
        for part in make(task, method, self._workers, self._seed):
            stored[place : place + part.nbytes] = np.frombuffer(part, np.uint8)
            place += part.nbytes
        narrow = torch.from_numpy(stored).view(getattr(torch, NAMES[output.dtype]))
        found: Floats = narrow.float().numpy().reshape(output.shape)
        return found
