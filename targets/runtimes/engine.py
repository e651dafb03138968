"""TensorRT engines through the library that built them, on the GPU that they were built for.

Keys and values stay on the device from step to step. An engine runs shapes within its profiles: batches
that are larger go through it in parts, prompts that are longer token by token behind their beginning, and a
step of several tokens one by one, since a profile has room for a prompt without a past or for one token
behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import gpu
from .engine_about import TITLES, check_machine, read_about
from .engine_file import EngineFile
from .engine_memory import CudaMemory
from .onnx import MODEL_FILE, OnnxSession
from .onnx_about import CAUSAL, SEQ2SEQ
from .onnx_graph import HALF
from .onnx_pair import OnnxPairSession
from .program import CUDA, check_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from .base import Cache

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

FLOAT = "tensor(float)"
IDS = "input_ids"


def open(path: Path) -> EngineSession | EnginePairSession:  # noqa: A001 - its name
    """The artifact or delivery in a directory as a session.

    Raises InputError when the directory holds no engines or they cannot be opened, and RequirementError
    without a GPU, a torch that runs on it, and the library and the GPU that they were built by and for.
    """
    about = read_about(path)
    check_machine(about, gpu.probe())
    check_device(CUDA)
    memory = CudaMemory()
    graphs = {
        name: EngineGraph(EngineFile(path / file, about.library, memory), about.library, memory)
        for name, file in about.files.items()
    }
    session = about.session
    model = graphs[str(session.get("file", MODEL_FILE))]
    if session["task"] == SEQ2SEQ:
        return EnginePairSession(graphs[str(session["encoder"]["file"])], model, session)
    return EngineSession(model, session)


class EngineGraph:
    """An engine as a graph; follows :class:`ingot.targets.runtimes.onnx_graph.Graph`.

    Rows of a batch are independent, so one that no profile has room for is run in parts.
    """

    # An input that may be left out is a constant of an engine.
    has_defaults = False

    def __init__(self, engine: EngineFile, library: str, memory: CudaMemory) -> None:
        self._engine, self.memory = engine, memory
        self.runtime, self.version = TITLES[library], engine.version
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.shapes: dict[str, tuple[Any, ...]] = dict(engine.shapes)
        half = ("float16", "bfloat16")
        self.types = {name: HALF if engine.dtypes[name] in half else FLOAT for name in self.inputs}
        self.most_rows = engine.longest(self.inputs[0], 0)

    def longest(self, name: str, axis: int) -> int:
        """The largest size of an input's axis that is run at once."""
        return self._engine.longest(name, axis)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """See :meth:`Graph.run`; tensors on the device."""
        given = {name: self.memory.put(feeds[name], self._engine.dtypes[name]) for name in self.inputs}
        rows = given[self.inputs[0]].shape[0]
        parts = [
            self._engine.run(
                {name: value[start : start + self.most_rows] for name, value in given.items()}, outputs
            )
            for start in range(0, rows, self.most_rows)
        ]
        return [self.memory.joined([part[name] for part in parts]) for name in outputs]

    def host(self, value: Any, first: int = 0) -> Floats:
        """See :meth:`Graph.host`."""
        return self.memory.host(value[:, first:])

    def close(self) -> None:
        """See :meth:`Graph.close`."""
        self._engine.close()


class _OnDevice:
    """What a session of engines tells of the device; see :class:`ingot.targets.runtimes.base.OnDevice`."""

    _memory: CudaMemory

    @property
    def device_ms(self) -> float | None:
        """See :attr:`OnDevice.device_ms`; of the last run, without copies."""
        return self._memory.device_ms

    @property
    def device_bytes(self) -> int:
        """See :attr:`OnDevice.device_bytes`; of all that runs on the device."""
        return self._memory.most_bytes


class EngineSession(_OnDevice, OnnxSession):
    """One engine; follows :class:`ingot.targets.runtimes.base.Session`.

    Raises as :class:`OnnxSession` does, and InputError for an encoder's sequences beyond the profile's.
    """

    def __init__(self, graph: EngineGraph, about: Mapping[str, Any]) -> None:
        super().__init__(graph, about)
        self._memory = graph.memory
        self._most = graph.longest(IDS, 1)

    def logits(self, input_ids: Ids, attention_mask: Ids | None = None) -> Floats:
        """See :meth:`Session.logits`."""
        if self._cache and input_ids.ndim == 2 and input_ids.shape[1] > self._most:
            return self.step(input_ids, attention_mask)[0]
        return super().logits(input_ids, attention_mask)

    def step(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        past: Cache | None = None,
        logits_from: int = 0,
    ) -> tuple[Floats, Cache]:
        """See :meth:`Session.step`."""
        import numpy as np

        at_once = 1 if past else self._most
        if (
            self._info.task != CAUSAL
            or not self._cache
            or input_ids.ndim != 2
            or input_ids.shape[1] <= at_once
        ):
            return super().step(input_ids, attention_mask, past, logits_from)
        before, new = past.length if past else 0, input_ids.shape[1]
        found: list[Floats] = []
        for start, stop in _parts(new, at_once):
            mask = None if attention_mask is None else attention_mask[:, : before + stop]
            result, past = super().step(input_ids[:, start:stop], mask, past)
            found.append(result)
        assert past is not None  # noqa: S101 - there is a part at least
        return np.concatenate(found, axis=1)[:, logits_from:], past


class EnginePairSession(_OnDevice, OnnxPairSession):
    """Two engines; follows :class:`ingot.targets.runtimes.base.PairSession`.

    Raises as :class:`OnnxPairSession` does, and InputError for sources and targets beyond the profiles'.
    """

    def __init__(self, encoder: EngineGraph, decoder: EngineGraph, about: Mapping[str, Any]) -> None:
        super().__init__(encoder, decoder, about)
        self._memory = decoder.memory


def _parts(count: int, first: int) -> Iterator[tuple[int, int]]:
    """So many columns at once, and then one by one."""
    yield 0, first
    for start in range(first, count):
        yield start, start + 1
