"""The files of an ONNX artifact: graphs with their weights in them or beside them, streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .writer import distinct, place, write_data, write_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ....artifacts.outbox import Outbox
    from ...base import Progress
    from .graph import Graph

DATA_FILE = "model.onnx.data"


def write_graphs(
    output: Outbox,
    graphs: Mapping[str, Graph],
    header: bytes,
    external_above_bytes: int,
    progress: Progress,
) -> bool:
    """Streams the weights into the graphs' files or beside them; whether any lie beside them.

    graphs: by file.  header: a serialized model without its graph.  external_above_bytes: see
    :func:`ingot.stages.export.onnx.writer.place`.
    """
    every = tuple(graphs.values())
    total, done = sum(initializer.bytes for initializer in distinct(every)), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total, "bytes of weights written")

    placement = place(every, external_above_bytes)
    for name, graph in graphs.items():
        with output.create(name) as sink:
            write_model(graph, header, placement, DATA_FILE, sink, advance)
    if placement:
        with output.create(DATA_FILE) as sink:
            write_data(every, placement, sink, advance)
    return bool(placement)
