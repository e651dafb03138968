"""Safetensors reading and writing, against the safetensors library and against hand-made broken files."""

from __future__ import annotations

import io
import json
import os
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ingot.artifacts.errors import IntakeError
from ingot.artifacts.tensor_header import DTYPE_BITS, MAX_HEADER_BYTES, MAX_TENSORS
from ingot.artifacts.tensors import (
    NUMPY_DTYPES,
    SafetensorsWriter,
    TensorInfo,
    TensorShape,
    TensorSource,
    read_header,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NUMPY_NAMES = {np.dtype(code): name for name, code in NUMPY_DTYPES.items()}


def file_with(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(
    dtype: object = "U8", shape: Sequence[object] = (2,), offsets: Sequence[object] = (0, 2)
) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refused(path: Path) -> str:
    with pytest.raises(IntakeError) as caught:
        read_header(path)
    assert caught.value.where == str(path)
    assert caught.value.what.isprintable()
    return caught.value.what


def written(tensors: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    layout = [TensorShape(name, NUMPY_NAMES[array.dtype], array.shape) for name, array in tensors.items()]
    with SafetensorsWriter(stream, layout) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return stream.getvalue()


arrays = st.sampled_from(sorted(NUMPY_NAMES, key=str)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
names = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
checkpoints = st.dictionaries(names, arrays, min_size=1, max_size=5)


@given(checkpoints)
def test_the_safetensors_library_reads_back_what_was_written(tensors):
    found = safetensors.numpy.load(written(tensors))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@given(checkpoints)
def test_what_the_safetensors_library_wrote_is_read_back(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("tensors") / "model.safetensors"
    path.write_bytes(
        safetensors.numpy.save({n: np.ascontiguousarray(a).reshape(a.shape) for n, a in tensors.items()})
    )
    with TensorSource.open([path]) as source:
        assert set(source.names()) == set(tensors)
        for name, array in tensors.items():
            found = source.array(name)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes() == source.raw(name).tobytes()


@given(checkpoints)
def test_a_file_written_by_ingot_is_read_by_ingot_in_the_order_it_was_written(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("tensors") / "model.safetensors"
    path.write_bytes(written(tensors))
    with TensorSource.open([path]) as source:
        # A tensor without elements shares its offset with its neighbour, which leaves their order open.
        filled = [name for name in tensors if tensors[name].size]
        assert [name for name in source.names() if tensors[name].size] == filled
        for name, array in tensors.items():
            assert source.array(name).tobytes() == array.tobytes()


TORCH_ONLY = {
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}


@pytest.mark.parametrize("dtype", sorted(TORCH_ONLY))
def test_dtypes_that_numpy_lacks_pass_as_bytes_both_ways(tmp_path, dtype):
    width = DTYPE_BITS[dtype] // 8
    raw = np.random.default_rng(3).integers(0, 256, 12 * width, np.uint8)
    tensor = torch.from_numpy(raw.copy()).view(TORCH_ONLY[dtype]).reshape(3, 4)
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    safetensors.torch.save_file({"w": tensor}, theirs)
    with TensorSource.open([theirs]) as source:
        assert (source.info("w").dtype, source.info("w").shape) == (dtype, (3, 4))
        assert source.raw("w").tobytes() == raw.tobytes()
        with pytest.raises(ValueError, match="numpy has no"):
            source.array("w")
        with (
            ours.open("wb") as stream,
            SafetensorsWriter(stream, [TensorShape("w", dtype, (3, 4))]) as writer,
        ):
            writer.write("w", source.raw("w"))
    found = safetensors.torch.load_file(ours)["w"]
    assert found.dtype == TORCH_ONLY[dtype]
    assert found.view(torch.uint8).numpy().tobytes() == raw.tobytes()


def test_the_numpy_dtypes_are_those_of_the_format_that_numpy_has():
    assert all(np.dtype(code).itemsize * 8 == DTYPE_BITS[name] for name, code in NUMPY_DTYPES.items())
    assert set(DTYPE_BITS) - set(NUMPY_DTYPES) == {*TORCH_ONLY, "F4", "F6_E2M3", "F6_E3M2"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_65536_half_precision_values_widen_exactly(tmp_path, dtype):
    values = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype).reshape(256, 256)
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file({"w": values}, path)
    with TensorSource.open([path]) as source:
        found = source.float32("w")
        part = source.float32("w", rows=slice(3, 200))
    expected = values.float().numpy()
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    np.testing.assert_array_equal(part, expected[3:200])


def test_float32_gives_a_new_array_for_every_floating_dtype_and_refuses_integers(tmp_path):
    path = tmp_path / "model.safetensors"
    third = np.array([[1 / 3, -0.0]])
    path.write_bytes(written({"double": third, "single": third.astype(np.float32), "whole": np.arange(3)}))
    with TensorSource.open([path]) as source:
        for name in ("double", "single"):
            found = source.float32(name)
            assert found.tobytes() == third.astype(np.float32).tobytes()
            found[0, 0] = 7.0
            assert source.float32(name)[0, 0] == np.float32(1 / 3)
        assert not source.array("single").flags.writeable
        with pytest.raises(ValueError, match="whole is I64"):
            source.float32("whole")
        with pytest.raises(ValueError, match="without a step"):
            source.float32("single", rows=slice(0, 1, 2))
        with pytest.raises(KeyError):
            source.info("absent")


def test_a_tensor_that_its_file_does_not_align_is_read_as_an_aligned_copy(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(written({"odd": np.arange(3, dtype=np.uint8), "w": np.arange(4, dtype=np.float32)}))
    with TensorSource.open([path]) as source:
        assert source.info("w").start % 4 == 3
        assert source.array("w").flags.aligned
        assert source.array("w").tolist() == source.float32("w").tolist() == [0, 1, 2, 3]


def test_released_memory_is_read_again_and_arrays_outlive_the_source(tmp_path):
    path = tmp_path / "model.safetensors"
    array = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    path.write_bytes(written({"pad": np.zeros(100, np.uint8), "w": array}))
    source = TensorSource.open([path])
    view = source.array("pad")
    np.testing.assert_array_equal(source.array("w"), array)
    source.release("w")
    np.testing.assert_array_equal(source.array("w"), array)
    source.close()
    assert view.sum() == 0
    with pytest.raises(ValueError, match="closed"):
        source.raw("w")


def test_many_files_are_one_source_and_a_tensor_in_two_of_them_is_refused(tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(written({"x": np.zeros(2), "y": np.ones(2)}))
    second.write_bytes(written({"z": np.full(2, 3.0)}))
    with TensorSource.open([first, second]) as source:
        assert source.names() == ["x", "y", "z"]
        assert source.info("z") == TensorInfo(
            "z", "F64", (2,), second, source.info("z").start, second.stat().st_size
        )
        assert "z" in source
        assert "w" not in source
    second.write_bytes(written({"x": np.zeros(2)}))
    with pytest.raises(IntakeError, match=r"'x' is stored twice, also in a\.safetensors"):
        TensorSource.open([first, second])


def test_equal_content_gives_equal_bytes_and_aligned_data():
    tensors = {"b": np.arange(5, dtype=np.float32), "a": np.arange(3, dtype=np.int8)}
    data = written(tensors)
    assert data == written(dict(tensors))
    assert struct.unpack("<Q", data[:8])[0] % 8 == 0
    assert json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"] == {"format": "pt"}


LAYOUT = [TensorShape("a", "F32", (2, 3)), TensorShape("b", "U8", (4, 1))]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("b", np.zeros((4, 1), np.uint8), "where a is next"),
        ("a", np.zeros((3, 2), np.float32), "was laid out"),
        ("a", np.zeros((2, 3), np.int32), "a is I32"),
        ("a", np.zeros((2, 3), ">f4"), "was laid out"),
        ("a", np.zeros((3, 2), np.float32).T, "C order"),
        ("a", b"12345", "not 24 bytes"),
    ],
)
def test_the_writer_refuses_what_was_not_laid_out(name, data, message):
    writer = SafetensorsWriter(io.BytesIO(), LAYOUT)
    with pytest.raises(ValueError, match=message):
        writer.write(name, data)


def test_the_writer_refuses_a_transposed_byte_tensor_a_missing_one_and_one_too_many():
    def fill(writer: SafetensorsWriter) -> None:
        writer.write("a", np.zeros((2, 3), np.float32))

    with (
        pytest.raises(ValueError, match="b was laid out but not written"),
        SafetensorsWriter(io.BytesIO(), LAYOUT) as w,
    ):
        fill(w)
    writer = SafetensorsWriter(io.BytesIO(), LAYOUT)
    fill(writer)
    with pytest.raises(ValueError, match="was laid out"):
        writer.write("b", np.zeros((1, 4), np.uint8))
    writer.write("b", np.zeros((4, 1), np.uint8))
    with pytest.raises(ValueError, match="c was not laid out"):
        writer.write("c", b"")
    with pytest.raises(ValueError, match="laid out twice"):
        SafetensorsWriter(io.BytesIO(), [LAYOUT[0], LAYOUT[0]])


def test_a_failure_inside_the_writer_is_not_replaced_by_a_complaint_about_missing_tensors():
    with pytest.raises(OSError, match="disk"), SafetensorsWriter(io.BytesIO(), LAYOUT):
        raise OSError("disk")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x10\x00", "fewer than the 8"),
        (struct.pack("<Q", 1 << 63), "over the limit"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), "over the limit"),
        (struct.pack("<Q", 100) + b"{}", "cut short"),
        (struct.pack("<Q", 4) + b"    ", "does not begin with"),
        (struct.pack("<Q", 2) + b"[]", "does not begin with"),
        (struct.pack("<Q", 2) + b"{{", "not JSON"),
        (struct.pack("<Q", 5) + b'{"\xff":', "not UTF-8"),
        (struct.pack("<Q", 7) + b'{"a":0}', "not an entry"),
    ],
)
def test_a_file_without_a_proper_header_is_refused(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert message in refused(path)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(), "b": entry(offsets=(1, 3))}, b"123", "overlaps"),
        ({"a": entry(), "b": entry(offsets=(3, 5))}, b"12345", "leaves a hole"),
        ({"a": entry(offsets=(1, 3))}, b"123", "leaves a hole"),
        ({"a": entry()}, b"123", "1 bytes follow the last tensor"),
        ({"a": entry()}, b"1", "cut short"),
        ({"a": entry("F32")}, b"12", "8 bytes, but its offsets span 2"),
        ({"a": entry(shape=(1 << 40, 1 << 40))}, b"12", "but its offsets span"),
        ({"a": entry(shape=(-1, -2))}, b"12", "impossible shape"),
        ({"a": entry(shape=(2.0,))}, b"12", "impossible shape"),
        ({"a": entry(shape=(True, 2))}, b"12", "impossible shape"),
        ({"a": entry(shape=(1 << 64,))}, b"12", "impossible shape"),
        ({"a": entry(shape=[1] * 40 + [2])}, b"12", "impossible shape"),
        ({"a": entry(offsets=(2, 0))}, b"12", "offsets span -2"),
        ({"a": entry(offsets=(0, 2, 2))}, b"12", "impossible offsets"),
        ({"a": entry(offsets=("0", "2"))}, b"12", "impossible offsets"),
        ({"a": entry("F5")}, b"12", "unknown dtype 'F5'"),
        ({"a": entry(["F32"])}, b"12", "unknown dtype"),
        ({"a": entry("F4", (3,))}, b"12", "whole bytes"),
        ({"a": {**entry(), "extra": 1}}, b"12", "not an entry"),
        ({"": entry()}, b"12", "has 0 characters"),
        ({"x" * 600: entry()}, b"12", "has 600 characters"),
        ({"../../etc/x": entry()}, b"12", "not a plain name"),
        ({"/etc/x": entry()}, b"12", "not a plain name"),
        ({"a\\b": entry()}, b"12", "not a plain name"),
        ({"a\x00b": entry()}, b"12", "not a plain name"),
        ({"a\nb": entry()}, b"12", "not a plain name"),
        ({"\x1b[31mred": entry()}, b"12", "not a plain name"),
        ({"\ud800": entry()}, b"12", "not a plain name"),
        ({"a": entry(), "__metadata__": {"n": 1}}, b"12", "__metadata__"),
        ({"a": entry(), "__metadata__": []}, b"12", "__metadata__"),
        (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,2]}}', b"12", "holds NaN"),
        (b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,2]}}', b"12", "holds 1e999"),
        (b'{"a":' * 10_000, b"", "nested too deeply"),
        (b'{"a":' * 100_000, b"", "more entries than the limit"),
        (b'{"a":' + b"9" * 5000 + b"}", b"", "integer string"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_describe_its_data_exactly_is_refused(tmp_path, header, data, message):
    assert message in refused(file_with(tmp_path / "model.safetensors", header, data))


@pytest.mark.parametrize("second", [entry(), entry("I8")])
def test_a_duplicate_key_is_refused_even_where_the_library_accepts_it(tmp_path, second):
    header = f'{{"a":{json.dumps(entry())},"a":{json.dumps(second)}}}'.encode()
    path = file_with(tmp_path / "model.safetensors", header, b"12")
    assert list(safetensors.numpy.load_file(path)) == ["a"]
    assert "has the key 'a' twice" in refused(path)


def test_a_duplicate_key_inside_an_entry_is_refused(tmp_path):
    header = b'{"a":{"dtype":"U8","dtype":"I8","shape":[2],"data_offsets":[0,2]}}'
    assert "has the key 'dtype' twice" in refused(file_with(tmp_path / "model.safetensors", header, b"12"))


def test_more_tensors_than_any_model_has_are_refused(tmp_path):
    header = {str(number): {} for number in range(MAX_TENSORS + 2)}
    assert "more entries than the limit" in refused(file_with(tmp_path / "model.safetensors", header))
    lists = {"a": [[]] * 2_000_000}
    assert "holds more than 600,000 values" in refused(file_with(tmp_path / "lists.safetensors", lists))


def test_what_is_not_a_regular_file_is_refused_without_waiting_for_it(tmp_path):
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    assert refused(pipe) == "is not a regular file"
    assert refused(tmp_path) == "is not a regular file"
    assert "cannot be opened: No such file" in refused(tmp_path / "absent.safetensors")


@given(st.binary(max_size=64), st.integers(0, 200), st.integers(0, 255))
def test_any_damage_gives_an_intake_error_or_a_readable_file(tmp_path_factory, junk, position, value):
    data = bytearray(written({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.uint8)}))
    data[position % len(data)] = value
    path = tmp_path_factory.mktemp("damage") / "model.safetensors"
    for content in (bytes(data), junk, bytes(data[: position % len(data)])):
        path.write_bytes(content)
        try:
            source = TensorSource.open([path])
        except IntakeError:
            continue
        for name in source.names():
            assert source.raw(name).nbytes == source.info(name).nbytes
