"""One ONNX file opened in onnxruntime, and what sessions of one graph or two have in common."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from ...artifacts.errors import InputError, RequirementError, StageError
from ..host import physical_cores
from .base import SessionInfo
from .library import import_onnxruntime
from .onnx_about import DESCRIPTION
from .onnx_file import check_onnx_file, check_ort_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

HALF, BFLOAT16 = "tensor(float16)", "tensor(bfloat16)"
# TensorProto.BFLOAT16 of ONNX.
BFLOAT16_TYPE = 16
# What onnxruntime calls a device; the processor takes what a device has no kernel for, such as shapes.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# The most heads, and the widest, that any model has.
MOST_HEADS = 1 << 16


class Graph(Protocol):
    """An open graph, whatever runs it. inputs, outputs: names in the graph's order.

    shapes: of inputs by name, with the name of a dimension that varies, or None, in its place.  types: of
    inputs by name, as onnxruntime calls them, such as `tensor(float16)`.  has_defaults: whether inputs that
    may be left out can be given.  runtime, version: what runs it.
    """

    runtime: str
    version: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, tuple[Any, ...]]
    types: dict[str, str]
    has_defaults: bool

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of those names, wherever the runtime has them; they may be fed again."""

    def host(self, value: Any, first: int = 0) -> Floats:
        """An output [batch, columns, ...] as an array, from a column on."""

    def close(self) -> None:
        """Frees the runtime's memory; the graph cannot be run afterwards."""


class OnnxGraph:
    """A graph in onnxruntime; follows :class:`Graph`.

    device: `cpu` or `cuda`.
    threads: all physical cores when None.  Raises InputError for a file that may not be opened (see
    `onnx_file.py`), and when onnxruntime cannot open it.
    """

    runtime, has_defaults = "onnxruntime", True

    def __init__(
        self, path: Path, about: Mapping[str, Any], threads: int | None, device: str = "cpu"
    ) -> None:
        (check_ort_file if path.suffix == ".ort" else check_onnx_file)(path)
        runtime = _onnxruntime(about)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or physical_cores()
        options.log_severity_level = 3
        for name, value in about.get("session_options", {}).items():
            options.add_session_config_entry(name, value)
        providers = list(dict.fromkeys((PROVIDERS[device], PROVIDERS["cpu"])))
        try:
            session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # noqa: BLE001 - onnxruntime has one exception type for each status code
            raise InputError(
                f"onnxruntime cannot open the graph: {_first_line(error)}",
                where=str(path),
                fix="check the files with `ingot verify`, or build the artifact again",
            ) from None
        if session.get_providers()[0] != providers[0]:
            # It goes on with the processor otherwise, and says so in its log alone.
            raise RequirementError(f"onnxruntime did not start {providers[0]}", fix="check the GPU's driver")
        self._session: Any = session
        self._runtime, self._device = runtime, device
        # On a processor arrays go in and come out without a copy, and binding brings nothing.
        self._is_bound = device != "cpu"
        self.version = str(runtime.__version__)
        self.inputs = tuple(str(node.name) for node in session.get_inputs())
        self.outputs = tuple(str(node.name) for node in session.get_outputs())
        self.shapes: dict[str, tuple[Any, ...]] = {
            str(node.name): tuple(node.shape) for node in session.get_inputs()
        }
        self.types = {str(node.name): str(node.type) for node in session.get_inputs()}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of those names; raises StageError when onnxruntime fails and after :meth:`close`."""
        if self._session is None:
            raise StageError("the session is closed")
        try:
            # An input that may be left out cannot be bound.
            if self._is_bound and all(name in self.inputs for name in feeds):
                return self._run_bound(outputs, feeds)
            results: list[Any] = self._session.run(
                outputs, {name: self._array(value) for name, value in feeds.items()}
            )
        except Exception as error:  # noqa: BLE001 - onnxruntime has one exception type for each status code
            raise StageError(f"onnxruntime failed: {_first_line(error)}") from None
        return results

    def host(self, value: Any, first: int = 0) -> Floats:
        """See :meth:`Graph.host`."""
        result: Floats = self._array(value)[:, first:]
        return result

    def _array(self, value: Any) -> Any:
        return value.numpy() if isinstance(value, self._runtime.OrtValue) else value

    def _run_bound(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The same with keys and values where they were computed: only the first output comes to the host."""
        values, binding = self._runtime.OrtValue, self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, values):
                binding.bind_ortvalue_input(name, value)
            elif self.types.get(name) == BFLOAT16:
                # numpy has no such numbers; only an empty past is made here.
                empty = values.ortvalue_from_shape_and_type(list(value.shape), BFLOAT16_TYPE, self._device)
                binding.bind_ortvalue_input(name, empty)
            else:
                binding.bind_cpu_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu" if name == self.outputs[0] else self._device)
        self._session.run_with_iobinding(binding)
        found: list[Any] = binding.get_outputs()
        return found

    def close(self) -> None:
        """Frees onnxruntime's memory; the graph cannot be run afterwards."""
        self._session = None


def _onnxruntime(about: Mapping[str, Any]) -> Any:
    try:
        onnxruntime = import_onnxruntime()
    except ImportError:
        raise RequirementError("onnxruntime is missing", fix="pip install onnxruntime") from None
    wanted = str(about.get("requires", {}).get("onnxruntime", ""))
    lowest = re.search(r">=\s*(\d+)\.(\d+)", wanted)
    have = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if lowest and have < (int(lowest[1]), int(lowest[2])):
        raise RequirementError(
            f"the graph needs onnxruntime {wanted}, and this is {onnxruntime.__version__}",
            fix=f"pip install 'onnxruntime{wanted}'",
        )
    return onnxruntime


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def session_info(about: Mapping[str, Any], version: str, runtime: str = "onnxruntime") -> SessionInfo:
    """What `ingot.json` says of a model; version: of the runtime."""
    encoder = about.get("encoder") or {}
    return SessionInfo(
        task=str(about["task"]),
        layers=int(about["layers"]),
        hidden=int(about["hidden"]),
        kv_heads=int(about["kv_heads"]),
        head_dim=int(about["head_dim"]),
        vocabulary=int(about["vocabulary"]),
        context=int(about["context"]),
        bos_id=about.get("bos_id"),
        eos_ids=tuple(about.get("eos_ids") or ()),
        pad_id=about.get("pad_id"),
        runtime=runtime,
        runtime_version=version,
        source_context=int(encoder.get("context", 0)),
        decoder_start_id=int(about.get("decoder_start_id") or 0),
    )


def cache_names(about: Mapping[str, Any]) -> dict[str, str]:
    """Graph inputs of past keys and values, and the outputs that become them in the next step; none of a
    graph without a cache.
    """
    if about["past"] is None:
        return {}
    names = [(layer, part) for layer in range(int(about["layers"])) for part in ("key", "value")]
    return {
        about["past"].format(layer=layer, part=part): about["present"].format(layer=layer, part=part)
        for layer, part in names
    }


def empty_cache(names: Collection[str], graph: Graph, batch: int) -> dict[str, Any]:
    """The past of a sequence's first step, [batch, kv_heads, 0, head_dim] in the dtype of each input named.

    Raises InputError when the graph has no such inputs, or of another shape.
    """
    import numpy as np

    found = {}
    for name in names:
        shape = graph.shapes.get(name, ())
        sizes = shape[1::2] if len(shape) == 4 else ()
        if not sizes or not all(type(size) is int and 0 < size <= MOST_HEADS for size in sizes):
            raise InputError(f"the graph has no input {name} of keys or values, as {DESCRIPTION} says")
        dtype = np.float16 if graph.types[name] == HALF else np.float32
        found[name] = np.zeros((batch, sizes[0], 0, sizes[1]), dtype)
    return found


def check_ids(ids: Ids, vocabulary: int, name: str = "input_ids") -> None:
    """Raises InputError unless ``ids`` are [batch, sequence], not empty and within the vocabulary."""
    if ids.ndim != 2 or ids.size == 0:
        raise InputError(f"{name} have the shape {list(ids.shape)}, not [batch, sequence]")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise InputError(f"token id {low if low < 0 else high} is outside the vocabulary of {vocabulary}")


def check_length(length: int, context: int) -> None:
    """Raises InputError for more tokens than the model's context."""
    if length > context:
        raise InputError(f"{length} tokens are more than the model's context of {context}")
