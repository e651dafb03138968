"""TensorRT as far as engines are run, with real arithmetic: an engine that is an ONNX graph in onnxruntime.

It reads and writes the addresses that it is given and nothing else, and is as strict as the documentation of
`ICudaEngine` and `IExecutionContext` says: every tensor has an address, shapes lie in the active profile, and
a context whose shapes are unknown runs nothing. TensorRT's own module has every public name of `FEW`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import struct
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from ingot.targets.runtimes.engine_memory import tensor_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__version__ = "1.7.1"
MAGIC = b"stand-in"
STREAM = 4711
TYPES = {1: "FLOAT", 10: "HALF", 16: "BF16", 7: "INT64"}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}


class DataType(Enum):
    FLOAT, HALF, BF16, INT64 = range(4)


class TensorIOMode(Enum):
    INPUT, OUTPUT = range(2)


class TensorLocation(Enum):
    DEVICE, HOST = range(2)


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def serialized(graph: Path, profiles: list[dict[str, Any]]) -> bytes:
    """An engine of a graph, its weights included."""
    model = onnx.load(graph).SerializeToString()
    head = json.dumps(profiles).encode()
    return MAGIC + struct.pack("<q", len(head)) + head + model


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not serialized_engine.startswith(MAGIC):
            self._logger.log(ILogger.Severity.ERROR, "Error Code 1: magic tag does not match")
            return None
        start = len(MAGIC) + 8
        (length,) = struct.unpack("<q", serialized_engine[len(MAGIC) : start])
        profiles = json.loads(serialized_engine[start : start + length])
        return ICudaEngine(serialized_engine[start + length :], profiles, self._logger)


class ICudaEngine:
    def __init__(self, model: bytes, profiles: list[dict[str, Any]], logger: Any) -> None:
        graph = onnx.load_model_from_string(model).graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._values = {value.name: value for value in (*graph.input, *graph.output)}
        self._names = [*self._inputs, *(node.name for node in self._session.get_outputs())]
        self._profiles, self._logger = profiles, logger
        self._contexts: list[IExecutionContext] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[TYPES[self._values[name].type.tensor_type.elem_type]]

    def get_tensor_location(self, name: str) -> TensorLocation:
        assert name in self._names
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self._values[name].type.tensor_type.shape.dim
        return tuple(-1 if dim.dim_param else dim.dim_value for dim in dims)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        shapes = self._profiles[profile_index]["inputs"][name]
        return [tuple(shapes[size]) for size in ("min", "opt", "max")]

    def create_execution_context(self) -> IExecutionContext:
        made = IExecutionContext(self)
        self._contexts.append(made)
        return made


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._found: dict[str, np.ndarray[Any, Any]] = {}
        self.runs: list[dict[str, tuple[int, ...]]] = []

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        self._profile = profile_index
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        inside = [low <= size <= high for low, size, high in zip(least, shape, most, strict=True)]
        if not all(inside):
            self._engine._logger.log(ILogger.Severity.ERROR, f"{name}: {shape} is outside of the profile")
            return False
        self._shapes[name], self._found = shape, {}
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._engine._inputs if name not in self._shapes]
        if not missing:
            # The sizes of outputs follow from the inputs, which are there already.
            feeds = {name: self._read(name) for name in self._engine._inputs}
            outputs = self._engine._names[len(feeds) :]
            found = self._engine._session.run(outputs, feeds)
            self._found = dict(zip(outputs, found, strict=True))
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._found[name].shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        assert self._found, "shapes are inferred first"
        for name, array in self._found.items():
            assert self._addresses[name], f"{name} has no address"
            flat = np.ascontiguousarray(array)
            ctypes.memmove(self._addresses[name], flat.ctypes.data, flat.nbytes)
        self.runs.append(dict(self._shapes))
        return True

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        dtype, shape = NUMPY[self._engine.get_tensor_dtype(name).name], self._shapes[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(ctypes.string_at(self._addresses[name], size), dtype).reshape(shape).copy()


# The classes whose every public name must be one of TensorRT's.
FEW = (Runtime, ICudaEngine, IExecutionContext, DataType, TensorIOMode, TensorLocation, ILogger.Severity)


class HostMemory:
    """As `CudaMemory`, in this process's own memory."""

    def __init__(self) -> None:
        self.stream, self.device_ms, self.most_bytes = STREAM, None, 0
        self._nothing = torch.zeros(1)

    def put(self, value: Any, dtype: str) -> torch.Tensor:
        return tensor_of(value).to(dtype=getattr(torch, dtype)).contiguous()

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    def address(self, tensor: torch.Tensor) -> int:
        return tensor.data_ptr() or self._nothing.data_ptr()

    def joined(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def host(self, tensor: torch.Tensor) -> Any:
        return tensor.float().numpy()

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        yield
        self.device_ms, self.most_bytes = 0.5, 1024
