"""An ONNX file written front to back: the weights flow through, a block at a time, into it or beside it.

The onnx library builds a message in memory and serializes a copy, twice the model. A protobuf message is the
concatenation of its fields in any order (https://protobuf.dev/programming-guides/encoding), so the structure
is serialized by the library and the initializers' bytes are framed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import onnx
from onnx import TensorProto, helper

from ....artifacts.errors import StageError
from .graph import ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .graph import Graph, Initializer

# Field numbers of onnx.proto.
GRAPH_OF_MODEL, INITIALIZER_OF_GRAPH, RAW_DATA_OF_TENSOR = 7, 5, 9
LENGTH_DELIMITED = 2
# External tensors begin on a page, so that a runtime can map them; those below it stay in the graph.
PAGE_BYTES = 4096
# A protobuf message ends below 2^31 bytes, whatever a parameter asks; the rest is for names and frames.
PROTOBUF_LIMIT_BYTES = 2_000_000_000

# Where initializers' bytes begin in the data file, by name; the others' are in the graph.
Placement = Mapping[str, int]


class Sink(Protocol):
    """A file being written; it need not seek."""

    def write(self, data: memoryview | bytes, /) -> object:
        """Takes all of ``data``."""


def place(graphs: Sequence[Graph], external_above_bytes: int) -> Placement:
    """Offsets into a data file that all graphs share, for tensors of a page or more.

    Those of the same name are the same tensor: what several graphs use is there once, whatever the size. The
    others are there where the graphs together are above that size.
    """
    total_bytes = sum(graph.weight_bytes + graph.structure.ByteSize() for graph in graphs)
    is_large = total_bytes > min(external_above_bytes, PROTOBUF_LIMIT_BYTES)
    users = Counter(initializer.name for graph in graphs for initializer in graph.initializers)
    offsets: dict[str, int] = {}
    end = 0
    for initializer in distinct(graphs):
        if initializer.bytes >= PAGE_BYTES and (is_large or users[initializer.name] > 1):
            offsets[initializer.name] = -(-end // PAGE_BYTES) * PAGE_BYTES
            end = offsets[initializer.name] + initializer.bytes
    return offsets


def distinct(graphs: Sequence[Graph]) -> Iterator[Initializer]:
    """The initializers of all graphs, each once; raises StageError for two different ones of one name."""
    known: dict[str, Initializer] = {}
    for initializer in (each for graph in graphs for each in graph.initializers):
        first = known.get(initializer.name)
        if first is None:
            known[initializer.name] = initializer
            yield initializer
        elif (first.dtype, first.shape) != (initializer.dtype, initializer.shape):
            raise StageError(f"two different tensors of the graphs are called {initializer.name}")


def model_header(opset: int, ir_version: int, domains: tuple[str, ...]) -> onnx.ModelProto:
    """A model without its graph."""
    return onnx.ModelProto(
        ir_version=ir_version,
        producer_name="ingot",
        opset_import=[helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)],
    )


def write_model(
    graph: Graph,
    header: bytes,
    placement: Placement,
    data_name: str,
    sink: Sink,
    progress: Callable[[int], None],
) -> None:
    """Writes the model file.

    header: the serialized model without its graph.  progress: is told of the bytes of each block written.
    """
    sink.write(header)
    structure = graph.structure.SerializeToString(deterministic=True)
    frames = [_frame(initializer, placement, data_name) for initializer in graph.initializers]
    size = len(structure) + sum(len(head) + inline for head, inline in frames)
    sink.write(_tag(GRAPH_OF_MODEL) + _varint(size))
    sink.write(structure)
    for initializer, (head, inline) in zip(graph.initializers, frames, strict=True):
        sink.write(head)
        if inline:
            _write_data(initializer, sink, progress)


def write_data(
    graphs: Sequence[Graph], placement: Placement, sink: Sink, progress: Callable[[int], None]
) -> None:
    """Writes the data file: the external tensors at their offsets, zeros between."""
    position = 0
    for initializer in distinct(graphs):
        if initializer.name in placement:
            sink.write(bytes(placement[initializer.name] - position))
            _write_data(initializer, sink, progress)
            position = placement[initializer.name] + initializer.bytes


def _frame(initializer: Initializer, placement: Placement, data_name: str) -> tuple[bytes, int]:
    """What stands before an initializer's data in the graph, and how many bytes of data follow there."""
    tensor = TensorProto(
        name=initializer.name, data_type=ELEMENT_TYPES[initializer.dtype], dims=initializer.shape
    )
    offset = placement.get(initializer.name)
    if offset is not None:
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": data_name, "offset": offset, "length": initializer.bytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        body = tensor.SerializeToString(deterministic=True)
        return _tag(INITIALIZER_OF_GRAPH) + _varint(len(body)) + body, 0
    body = tensor.SerializeToString(deterministic=True)
    body += _tag(RAW_DATA_OF_TENSOR) + _varint(initializer.bytes)
    return _tag(INITIALIZER_OF_GRAPH) + _varint(len(body) + initializer.bytes) + body, initializer.bytes


def _write_data(initializer: Initializer, sink: Sink, progress: Callable[[int], None]) -> None:
    written = 0
    for block in initializer.blocks():
        if block.dtype.name != initializer.storage or not block.flags.c_contiguous:
            raise StageError(f"{initializer.name} gave a block of {block.dtype.name} that cannot be written")
        sink.write(block.data.cast("B") if block.size else b"")
        written += block.nbytes
        progress(block.nbytes)
    if written != initializer.bytes:
        raise StageError(f"{initializer.name} gave {written} bytes of {initializer.bytes}")


def _tag(field: int) -> bytes:
    return _varint(field << 3 | LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
