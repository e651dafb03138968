"""A graph under construction: nodes, weights that are produced when they are written, inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ....artifacts.errors import StageError
from .narrow import FLOATING, narrowed

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTRIB = "com.microsoft"
ELEMENT_TYPES: dict[str, int] = {
    "bool": TensorProto.BOOL,
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int4": TensorProto.INT4,
}
# What numpy has no type for is in its bits: of int4 two a byte, the first in the low bits.
STORAGE = {"int4": ("uint8", 2), "bfloat16": ("uint16", 1), "float8e4m3fn": ("uint8", 1)}
# Added to a score that must not count. Finite, and far enough from the lowest number that a score on top of
# it stays finite: a padded row masks everything and must not give NaN.
MASKED = {"float32": float(np.finfo(np.float32).min), "float16": -3e4, "bfloat16": -1e38}
Runtime = Literal["onnxruntime", "tensorrt"]
Dimension = int | str


@dataclass(frozen=True)
class Initializer:
    """A tensor of the graph whose bytes come in blocks, so that it never has to be in memory whole.

    dtype: a key of ELEMENT_TYPES.  blocks: gives C-contiguous arrays of ``storage``, whose bytes, one after
    another, are the tensor in row-major order; it may be called more than once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[npt.NDArray[Any]]]

    @property
    def storage(self) -> str:
        """The numpy dtype that the data comes in."""
        return STORAGE.get(self.dtype, (self.dtype, 1))[0]

    @property
    def bytes(self) -> int:
        """The size of the tensor's data."""
        per_item = STORAGE.get(self.dtype, (self.dtype, 1))[1]
        return -(-math.prod(self.shape) // per_item) * np.dtype(self.storage).itemsize


@dataclass(frozen=True)
class Graph:
    """A finished graph. structure: everything but the initializers.  domains: operator sets beside ONNX's."""

    structure: onnx.GraphProto
    initializers: tuple[Initializer, ...]
    domains: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """The bytes of all initializers together."""
        return sum(initializer.bytes for initializer in self.initializers)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that a caller must give."""
        optional = {initializer.name for initializer in self.initializers}
        return tuple(value.name for value in self.structure.input if value.name not in optional)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs in order."""
        return tuple(value.name for value in self.structure.output)

    def has_operator(self, operator: str) -> bool:
        """Whether a node is of that operator, also in a branch."""
        return any(node.op_type == operator for node in _all_nodes(self.structure))


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


class GraphBuilder:
    """Collects a graph. Values are referred to by name, as in ONNX; every method returns the new names.

    dtype: what it computes in.  runtime: whose operators, and whose form of them, are written.
    """

    def __init__(self, dtype: str = "float32", runtime: Runtime = "onnxruntime") -> None:
        self.dtype = dtype
        self.runtime: Runtime = runtime
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, Initializer] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._domains: set[str] = set()
        self._scope = ""
        self._count = 0

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefixes the names of nodes made inside, so that a profile or a diff can be read."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        yield
        self._scope = outer

    def choice(self, condition: str, value: str, width: int, then: Callable[[], str]) -> str:
        """What ``then`` writes where a bool holds, else ``value``: [rows, width] both ways.

        The nodes that ``then`` makes become a graph of their own, which is run only when it is needed.
        """
        outer, self._nodes = self._nodes, []
        try:
            results = {"then": then()}
            inner, self._nodes = self._nodes, []
            results["else"] = self.node("Identity", value)
            branches = {"then": inner, "else": self._nodes}
        finally:
            self._nodes = outer
        shape = [
            helper.make_tensor_value_info(name, ELEMENT_TYPES[self.dtype], (None, width))
            for name in results.values()
        ]
        graphs = {
            f"{name}_branch": helper.make_graph(nodes, f"{results[name]}/{name}", [], [output])
            for (name, nodes), output in zip(branches.items(), shape, strict=True)
        }
        return self.node("If", condition, **graphs)

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """A node with one output."""
        return self.nodes(operator, inputs, 1, domain, **attributes)[0]

    def nodes(
        self, operator: str, inputs: Sequence[str], outputs: int, domain: str = "", **attributes: object
    ) -> tuple[str, ...]:
        """A node with several outputs; an empty input name is an optional input that is left out."""
        name = f"{self._scope}{operator}_{self._count}"
        names = (name,) if outputs == 1 else tuple(f"{name}:{index}" for index in range(outputs))
        self._append(operator, inputs, names, domain, name, attributes)
        return names

    def named(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object
    ) -> None:
        """A node of the ONNX domain that writes values of given names, such as the graph's outputs."""
        self._append(operator, inputs, outputs, "", f"{self._scope}{operator}_{self._count}", attributes)

    def rename(self, value: str, name: str) -> None:
        """Gives the value that a node made another name, such as that of an output."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, found in enumerate(names):
                    if found == value:
                        names[index] = name

    def _append(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str,
        name: str,
        attributes: dict[str, object],
    ) -> None:
        self._count += 1
        if domain:
            self._domains.add(domain)
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes)
        )

    def add(self, initializer: Initializer) -> str:
        """A weight; the same name twice must be the same tensor, as with a tied embedding."""
        known = self._initializers.setdefault(initializer.name, initializer)
        if (known.dtype, known.shape) != (initializer.dtype, initializer.shape):
            raise StageError(f"two different tensors of the graph are called {initializer.name}")
        return initializer.name

    def array(self, name: str, value: npt.NDArray[Any]) -> str:
        """A small tensor that is already in memory."""
        contiguous = np.ascontiguousarray(value)
        return self.add(Initializer(name, value.dtype.name, value.shape, lambda: iter((contiguous,))))

    def ints(self, *values: int) -> str:
        """An int64 vector, made once however often it is used."""
        return self.array(f"int64[{','.join(map(str, values))}]", np.array(values, np.int64))

    def scalar(self, value: float, dtype: str | None = None) -> str:
        """A scalar, of the graph's own dtype when None, made once however often it is used."""
        dtype = dtype or self.dtype
        name = f"{dtype}({value!r})"
        if dtype in FLOATING:
            bits = narrowed(np.array(value, np.float32), dtype, name)
            return self.add(Initializer(name, dtype, (), lambda: iter((bits,))))
        if dtype in STORAGE:
            # Of these only 0 is asked for, whose bits are 0 too.
            bits = np.array(value, STORAGE[dtype][0])
            return self.add(Initializer(name, dtype, (), lambda: iter((bits,))))
        return self.array(name, np.array(value, dtype))

    def cast(self, value: str, dtype: str | None = None) -> str:
        """``value`` in a dtype, the graph's own when None."""
        return self.node("Cast", value, to=ELEMENT_TYPES[dtype or self.dtype])

    def masked(self) -> str:
        """What is added to a score that must not count."""
        return self.scalar(MASKED[self.dtype])

    def input(self, name: str, dtype: str, shape: Sequence[Dimension]) -> str:
        """An input of the graph; dimensions are numbers or the names of what varies."""
        self._inputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape))
        return name

    def optional_input(self, name: str, default: npt.NDArray[Any]) -> str:
        """An input that has a value where the caller gives none."""
        self.array(name, default)
        return self.input(name, default.dtype.name, default.shape)

    def output(self, name: str, dtype: str, shape: Sequence[Dimension]) -> None:
        """Makes the value called ``name`` an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape))

    def finish(self, name: str) -> Graph:
        """The graph as a value."""
        structure = helper.make_graph(self._nodes, name, self._inputs, self._outputs)
        return Graph(structure, tuple(self._initializers.values()), tuple(sorted(self._domains)))
