"""Holds the activations of a walk: in memory up to a budget, in mapped files without names past it."""

from __future__ import annotations

import mmap
import tempfile
import threading
import weakref
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path


class Shelf:
    """Counts what it is given and has not been let go of yet.

    budget_bytes: of tensors on the processor; those on a device stay there and count nothing.  directory:
    where the files are made; they have no name, so that nothing stays behind whatever happens.
    """

    def __init__(self, budget_bytes: int, directory: Path) -> None:
        self._budget_bytes = budget_bytes
        self._directory = directory
        self._lock = threading.Lock()
        self._held_bytes = 0
        self.spilled_bytes = 0

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor``, or an equal one whose pages the system may write out; raises OSError on a full disk."""
        size = tensor.numel() * tensor.element_size()
        if tensor.device.type != "cpu" or size == 0:
            return tensor
        with self._lock:
            fits = self._held_bytes + size <= self._budget_bytes
            if fits:
                self._held_bytes += size
            else:
                self.spilled_bytes += size
        if fits:
            weakref.finalize(tensor, self._let_go, size)
            return tensor
        return self._spilled(tensor, size)

    def _let_go(self, size: int) -> None:
        with self._lock:
            self._held_bytes -= size

    def _spilled(self, tensor: torch.Tensor, size: int) -> torch.Tensor:
        # Bytes that are written to a file, unlike a map's, meet a full disk as an error and not as a signal.
        with tempfile.TemporaryFile(dir=self._directory) as stream:
            flat = tensor.detach().contiguous().view(torch.uint8).reshape(-1)
            stream.write(flat.numpy().data)
            stream.flush()
            mapped = mmap.mmap(stream.fileno(), size)
        view = torch.frombuffer(mapped, dtype=torch.uint8).view(tensor.dtype)
        return view.reshape(tensor.shape)
