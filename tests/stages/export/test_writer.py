"""Files written by hand-made framing are what the onnx library and onnxruntime read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import StageError
from ingot.stages.export.onnx.graph import Graph, GraphBuilder, Initializer
from ingot.stages.export.onnx.writer import PAGE_BYTES, model_header, place, write_data, write_model
from numpy.testing import assert_array_equal

from .oracle import OnnxModel, cases

if TYPE_CHECKING:
    from pathlib import Path

HEADER = model_header(23, 11, ())


def sum_of(weights: list[np.ndarray[Any, Any]]) -> Graph:
    """A graph that adds up its float32 weights, each given in blocks of one row."""
    builder = GraphBuilder()
    total = builder.input("x", "float32", ())
    for index, weight in enumerate(weights):
        name = builder.add(
            Initializer(f"w{index}", weight.dtype.name, weight.shape, lambda weight=weight: iter(weight))
        )
        total = builder.node("Add", total, builder.node("ReduceSum", name, keepdims=0))
    builder.named("Identity", (total,), ("y",))
    builder.output("y", "float32", ())
    return builder.finish("sum")


def write(graph: Graph, directory: Path, external_above: int) -> None:
    placement = place((graph,), external_above)
    with (directory / "model.onnx").open("wb") as sink:
        write_model(graph, HEADER.SerializeToString(), placement, "model.onnx.data", sink, lambda count: None)
    if placement:
        with (directory / "model.onnx.data").open("wb") as sink:
            write_data((graph,), placement, sink, lambda count: None)


@given(shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 80)), min_size=1, max_size=4))
def test_the_onnx_library_reads_back_every_weight(shapes: list[tuple[int, int]]) -> None:
    weights = [np.arange(a * b, dtype=np.float32).reshape(a, b) + a for a, b in shapes]
    graph = sum_of(weights)
    sink = io.BytesIO()
    write_model(graph, HEADER.SerializeToString(), place((graph,), 10**9), "", sink, lambda count: None)
    model = onnx.load_from_string(sink.getvalue())
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in graph.structure.node]
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for index, weight in enumerate(weights):
        assert_array_equal(arrays[f"w{index}"], weight)


def test_large_external_tensors_begin_on_pages_and_small_ones_stay(tmp_path: Path) -> None:
    weights = [
        np.full((3, 5000), 1.5, np.float32),
        np.ones((2, 4), np.float32),
        np.full((9, 999), 2, np.float32),
    ]
    write(sum_of(weights), tmp_path, external_above=0)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    entries = {t.name: {entry.key: entry.value for entry in t.external_data} for t in model.graph.initializer}
    assert entries["w1"] == {}
    assert {entries[name]["location"] for name in ("w0", "w2")} == {"model.onnx.data"}
    assert all(int(entries[name]["offset"]) % PAGE_BYTES == 0 for name in ("w0", "w2"))
    onnx.checker.check_model(tmp_path / "model.onnx")
    arrays = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    for index, weight in enumerate(weights):
        assert_array_equal(arrays[f"w{index}"], weight)


@pytest.mark.parametrize(("limit", "has_data"), [(10**9, False), (1000, True)])
def test_the_size_decides_where_weights_go(limit: int, has_data: bool, tmp_path: Path) -> None:
    write(sum_of([np.ones((10, 1000), np.float32)]), tmp_path, limit)
    assert (tmp_path / "model.onnx.data").exists() == has_data


def test_a_model_beyond_what_protobuf_holds_is_never_written_into_one_file() -> None:
    huge = Initializer("w", "float32", (600_000_000,), lambda: iter(()))
    builder = GraphBuilder()
    builder.add(huge)
    assert place((builder.finish("huge"),), 10**12) == {"w": 0}


@pytest.mark.parametrize("blocks", [[np.ones(3, np.float32)], [np.ones(4, np.float64)]])
def test_blocks_that_are_not_what_was_announced_are_refused(blocks: list[Any]) -> None:
    builder = GraphBuilder()
    builder.add(Initializer("w", "float32", (4,), lambda: iter(blocks)))
    graph = builder.finish("wrong")
    with pytest.raises(StageError, match="w gave"):
        write_model(graph, b"", place((graph,), 10**9), "", io.BytesIO(), lambda count: None)


def test_external_data_computes_the_same_as_one_file(tiny_checkpoint: Any, export: Any) -> None:
    directory = tiny_checkpoint("llama")
    one = export(directory)
    two = export(directory, external_data_above_bytes=0)
    assert (one.result.facts["external_data"], two.result.facts["external_data"]) == (False, True)
    assert (two.directory / "model.onnx.data").stat().st_size > (two.directory / "model.onnx").stat().st_size
    feeds = cases(320)["prefill"].steps()[0]
    assert_array_equal(OnnxModel(one.directory)(feeds)[0], OnnxModel(two.directory)(feeds)[0])


def test_two_exports_of_a_checkpoint_are_equal_byte_for_byte(tiny_checkpoint: Any, export: Any) -> None:
    directory = tiny_checkpoint("gpt2")
    first, second = (export(directory).directory / "model.onnx" for _ in range(2))
    assert first.read_bytes() == second.read_bytes()
