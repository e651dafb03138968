"""One serialized engine of TensorRT or TensorRT-RTX, opened and run on tensors of its device.

The API is that of TensorRT 10 and TensorRT-RTX, which share it (NVIDIA TensorRT, Python API, `ICudaEngine`
and `IExecutionContext`). Each optimization profile has an execution context of its own, so that a prompt and
the steps after it never wait for a switch.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError, RequirementError, StageError
from .engine_about import TITLES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from .engine_memory import CudaMemory

    Shape = tuple[int, ...]

# What TensorRT calls an element type, and what torch does; no input or output of Ingot has another.
DTYPES: Mapping[str, str] = {
    "float": "float32", "half": "float16", "bf16": "bfloat16", "int64": "int64", "int32": "int32",
}  # fmt: skip
MOST_REASONS = 3


def import_library(name: str) -> Any:
    """TensorRT's module of that name; raises RequirementError where it is missing or does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequirementError(
            f"{TITLES[name]} is missing or does not load: {reason}",
            fix=f"pip install {name.replace('_', '-')}",
        ) from None


def new_log(trt: Any) -> Any:
    """A logger that keeps errors in `errors`, and prints what is more than a remark."""

    class Log(trt.ILogger):  # type: ignore[misc] # its base is known while running alone
        """Called by the library from its own threads."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Keeps or prints one message."""
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message.strip())
            if severity <= trt.ILogger.Severity.WARNING:
                print(message)  # noqa: T201 - standard output of a stage is its log

    return Log()


def dtype_name(dtype: Any) -> str:
    """What TensorRT calls an element type: ``DataType.HALF`` is ``half``."""
    return str(dtype).rpartition(".")[2].lower()


class EngineFile:
    """An open engine. inputs, outputs: names in its order.  shapes: of inputs, -1 where a size varies.
    dtypes: of both, as torch calls them.

    memory: where tensors are.  Runs are done one at a time.  Raises RequirementError where the library is
    missing, InputError for a file that it does not open here, and for one with inputs unlike Ingot's.
    """

    def __init__(self, path: Path, library: str, memory: CudaMemory) -> None:
        trt = import_library(library)
        self._log, self._memory, self._title = new_log(trt), memory, TITLES[library]
        self.version = str(trt.__version__)
        self._lock = threading.Lock()
        self._contexts: dict[int, Any] = {}
        # The runtime must outlive what it opens.
        self._runtime: Any = trt.Runtime(self._log)
        self._engine: Any = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise InputError(
                f"{self._title} {self.version} does not open the engine: {self._reasons()}",
                where=str(path),
                fix="run it with the library and on the GPU that engine.json names, or build the target here",
            )
        names = [str(self._engine.get_tensor_name(number)) for number in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(name for name in names if is_input[name])
        self.outputs = tuple(name for name in names if not is_input[name])
        self.shapes = {name: _sizes(self._engine.get_tensor_shape(name)) for name in self.inputs}
        kinds = {name: dtype_name(self._engine.get_tensor_dtype(name)) for name in names}
        for name in names:
            on_host = self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE
            if kinds[name] not in DTYPES or on_host:
                what = f"{name} is {kinds[name]}{' on the host' if on_host else ''}, as none of Ingot's is"
                raise InputError(what, where=str(path), fix="build it with export.tensorrt")
        self.dtypes = {name: DTYPES[kind] for name, kind in kinds.items()}
        count = int(self._engine.num_optimization_profiles)
        self._profiles = [self._ranges(number) for number in range(count)]

    def longest(self, name: str, axis: int) -> int:
        """The largest size of an input's axis in any profile."""
        return max(ranges[name][1][axis] for ranges in self._profiles)

    def run(self, given: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
        """Outputs by name, tensors on the device, for all inputs as tensors there.

        Raises InputError for shapes of no profile, StageError when TensorRT fails and after :meth:`close`.
        """
        if self._engine is None:
            raise StageError("the session is closed")
        shapes = {name: tuple(given[name].shape) for name in self.inputs}
        number = self._profile(shapes)
        with self._lock:
            self._log.errors.clear()
            context = self._context(number)
            for name, shape in shapes.items():
                self._ask(context.set_input_shape, name, shape)
                self._ask(context.set_tensor_address, name, self._memory.address(given[name]))
            unknown = context.infer_shapes()
            if unknown:
                raise StageError(f"{self._title} lacks what it needs of {', '.join(map(str, unknown))}")
            found = {
                name: self._memory.empty(_sizes(context.get_tensor_shape(name)), self.dtypes[name])
                for name in self.outputs
            }
            for name, tensor in found.items():
                self._ask(context.set_tensor_address, name, self._memory.address(tensor))
            with self._memory.timed():
                self._ask(context.execute_async_v3, self._memory.stream)
        return {name: found[name] for name in wanted}

    def close(self) -> None:
        """Frees what TensorRT holds; the engine cannot be run afterwards."""
        with self._lock:
            self._contexts.clear()
            self._engine = None
            self._runtime = None

    def _ranges(self, profile: int) -> dict[str, tuple[Shape, Shape]]:
        """The least and the largest shape of every input in a profile."""
        found = {}
        for name in self.inputs:
            least, _, most = map(_sizes, self._engine.get_tensor_profile_shape(name, profile))
            found[name] = (least, most)
        return found

    def _profile(self, shapes: Mapping[str, Shape]) -> int:
        """The first profile that has room for these shapes."""
        wrong = ""
        for number, ranges in enumerate(self._profiles):
            outside = [name for name, shape in shapes.items() if not _fits(shape, *ranges[name])]
            if not outside:
                return number
            name = outside[0]
            wrong = f"{name} {list(shapes[name])}, profile {number} takes {_told(*ranges[name])}"
        raise InputError(
            f"the engine was built for no such shapes: {wrong}",
            fix="run fewer or shorter sequences, or build it with larger export.batch and export.sequence",
        )

    def _context(self, profile: int) -> Any:
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None:
                raise StageError(f"{self._title} makes no execution context: {self._reasons()}")
            self._ask(context.set_optimization_profile_async, profile, self._memory.stream)
            self._contexts[profile] = context
        return self._contexts[profile]

    def _ask(self, call: Callable[..., Any], *values: Any) -> None:
        """Raises StageError where TensorRT says no."""
        if not call(*values):
            raise StageError(f"{self._title} failed in {call.__name__}: {self._reasons()}")

    def _reasons(self) -> str:
        return "; ".join(dict.fromkeys(self._log.errors[:MOST_REASONS])) or "it gave no reason"


def _sizes(dims: Any) -> Shape:
    return tuple(int(size) for size in dims)


def _fits(shape: Shape, least: Shape, most: Shape) -> bool:
    is_alike = len(shape) == len(least)
    return is_alike and all(low <= size <= high for size, low, high in zip(shape, least, most, strict=True))


def _told(least: Shape, most: Shape) -> str:
    """A range of shapes: ``[1..8, 128]``."""
    parts = (str(low) if low == high else f"{low}..{high}" for low, high in zip(least, most, strict=True))
    return f"[{', '.join(parts)}]"
