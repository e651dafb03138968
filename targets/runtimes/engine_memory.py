"""Tensors for engines in a GPU's memory, on a stream of their own, by torch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .program import CUDA

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Floats = npt.NDArray[np.float32]


def tensor_of(value: Any) -> Any:
    """A tensor as it is, an array as a tensor: a copy where it may not be written, as torch asks."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    return torch.from_numpy(value if value.flags.writeable else value.copy())


class CudaMemory:
    """Makes tensors, copies them, and times what runs on its stream.

    device_ms: how long what was timed last took.  most_bytes: the most that the device held since this was
    made, of all that runs on it: TensorRT's memory is not torch's, so the device itself is asked.
    """

    def __init__(self) -> None:
        import torch

        cuda: Any = torch.cuda
        self._stream = cuda.Stream()
        self._free = int(cuda.mem_get_info()[0])
        # An address that an empty tensor may be said to have: TensorRT takes none that is 0.
        self._nothing = torch.zeros(1, device=CUDA)
        self.device_ms: float | None = None
        self.most_bytes = 0

    @property
    def stream(self) -> int:
        """The handle of the stream."""
        return int(self._stream.cuda_stream)

    def put(self, value: Any, dtype: str) -> Any:
        """A numpy array or a tensor as a contiguous tensor of that dtype on the device."""
        import torch

        with torch.cuda.stream(self._stream):
            return tensor_of(value).to(device=CUDA, dtype=getattr(torch, dtype)).contiguous()

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor whose values are undefined."""
        import torch

        with torch.cuda.stream(self._stream):
            return torch.empty(shape, dtype=getattr(torch, dtype), device=CUDA)

    def address(self, tensor: Any) -> int:
        """Where a tensor begins on the device."""
        return int(tensor.data_ptr() or self._nothing.data_ptr())

    def joined(self, parts: list[Any]) -> Any:
        """Tensors one after another along their first axis."""
        import torch

        with torch.cuda.stream(self._stream):
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def host(self, tensor: Any) -> Floats:
        """A tensor as float32 on the host."""
        import torch

        with torch.cuda.stream(self._stream):
            found: Floats = tensor.float().cpu().numpy()
        return found

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Around what is launched on the stream; has ended on the device when it is left."""
        import torch

        cuda: Any = torch.cuda
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        yield
        end.record(self._stream)
        end.synchronize()
        self.device_ms = float(start.elapsed_time(end))
        self.most_bytes = max(self.most_bytes, self._free - int(cuda.mem_get_info()[0]))
