"""Pickled weights: listed without being unpickled, converted only when allowed, and then exactly."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.artifacts.errors import IntakeError, StageError
from ingot.stages import base
from ingot.stages.load import conversion
from ingot.stages.load.intake import inspect_source
from ingot.stages.load.pickled import read_pickled
from ingot.stages.load.stage import LoadParams, files_read

if TYPE_CHECKING:
    from pathlib import Path

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def save(path: Path, tensors: object, *, zipped: bool = True) -> Path:
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture
def load(store, tmp_path):
    """Runs the stage on a directory and publishes what it made; with the notes it left."""

    def run(directory, *, allow_pickle=True):
        notes: list[str] = []
        params = LoadParams(model=str(directory), allow_pickle=allow_pickle)
        with store.outbox() as outbox:
            context = base.Context(params, {}, outbox, tmp_path, 0, 1, lambda *_: None, notes.append)
            result = base.get("load").run(context)
            return outbox.publish("checkpoint", result.facts), notes

    return run


@FORMS
def test_every_dtype_view_and_parameter_is_listed_as_torch_loads_it(tmp_path, zipped):
    base_tensor = torch.randn(6, 4)
    tensors = {f"as.{name}": torch.ones(3, 2).to(dtype) for dtype, name in DTYPES.items()}
    tensors |= {
        "transposed": base_tensor.t(), "slice": base_tensor[2:4, 1:], "same": base_tensor,
        "parameter": torch.nn.Parameter(torch.randn(2)), "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(2.5),
    }  # fmt: skip
    path = save(tmp_path / "pytorch_model.bin", tensors, zipped=zipped)
    found = read_pickled(path)
    raw = path.read_bytes()
    for name, tensor in torch.load(path, weights_only=True).items():
        info, view = found.info(name), found.tensors[name]
        assert (info.dtype, info.shape, view.stride) == (DTYPES[tensor.dtype], tensor.shape, tensor.stride())
        assert info.nbytes == info.stop - info.start
        if tensor.is_contiguous() and tensor.numel():
            stored = torch.frombuffer(bytearray(raw[info.start : info.stop]), dtype=tensor.dtype)
            assert torch.equal(stored.reshape(tensor.shape), tensor)
    assert found.tensors["same"].storage == found.tensors["slice"].storage


@pytest.mark.parametrize(
    ("family", "dtype", "zipped"),
    [("llama-tied", "bfloat16", True), ("gpt2", "float32", False), ("bert", "float32", True)],
)
def test_a_pickled_checkpoint_becomes_the_artifact_of_its_safetensors_twin(
    own_checkpoint, load, family, dtype, zipped
):
    import transformers

    model = own_checkpoint(family, dtype=dtype)
    twin, _ = load(model.path, allow_pickle=False)
    kind = {"llama-tied": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "bert": "BertModel"}[family]
    network = getattr(transformers, kind).from_pretrained(model.path, dtype=dtype)
    (model.path / "model.safetensors").unlink()
    save(model.path / "pytorch_model.bin", network.state_dict(), zipped=zipped)
    planned = inspect_source(model.path, allow_pickle=True)
    artifact, notes = load(model.path)
    assert artifact.digest == twin.digest
    assert {**planned.identity(), "weight_bytes": 0} == {**artifact.facts, "weight_bytes": 0}
    assert "the weights were pickled (pytorch_model.bin)" in notes[0]


def test_pickled_shards_and_turned_tensors_become_one_file_in_elements_order(own_checkpoint, load):
    model = own_checkpoint("llama", dtype="bfloat16")
    tensors = safetensors.torch.load_file(model.path / "model.safetensors")
    (model.path / "model.safetensors").unlink()
    names = sorted(tensors)
    turned = {name: t.t().contiguous().t() if t.ndim == 2 else t for name, t in tensors.items()}
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"pytorch_model-0000{number}-of-00002.bin"
        save(model.path / shard, {name: turned[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    (model.path / "pytorch_model.bin.index.json").write_text("{}")
    model.edit_json("pytorch_model.bin.index.json", metadata={}, weight_map=weight_map)
    files = files_read(LoadParams(model=str(model.path), allow_pickle=True))
    assert {*weight_map.values(), "pytorch_model.bin.index.json", "config.json"} <= set(files)
    artifact, _ = load(model.path)
    assert not any("pytorch" in record.path for record in artifact.record.files)
    found = safetensors.torch.load_file(artifact.path / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    model.edit_json("pytorch_model.bin.index.json", weight_map={**weight_map, "ghost": shard})
    with pytest.raises(IntakeError, match="its shards lack 'ghost'"):
        inspect_source(model.path, allow_pickle=True)


def pickle_alone(own_checkpoint, content=None):
    model = own_checkpoint("llama")
    tensors = safetensors.torch.load_file(model.path / "model.safetensors")
    (model.path / "model.safetensors").unlink()
    save(model.path / "pytorch_model.bin", tensors if content is None else content)
    return model


def test_without_permission_a_pickle_is_refused_and_the_way_to_allow_it_named(own_checkpoint, load):
    model = pickle_alone(own_checkpoint)
    refusal = model.refusal()
    assert "its weights are pickled (pytorch_model.bin)" in refusal.what
    assert "--allow-pickle" in refusal.fix
    with pytest.raises(IntakeError, match="pickled"):
        load(model.path, allow_pickle=False)


def test_with_permission_safetensors_still_go_first(own_checkpoint, load):
    model = own_checkpoint("llama")
    expected, _ = load(model.path, allow_pickle=False)
    (model.path / "pytorch_model.bin").write_bytes(b"never read")
    artifact, notes = load(model.path)
    assert artifact.digest == expected.digest
    assert notes == []


def test_a_process_that_reads_pickles_and_dies_is_a_failed_stage(own_checkpoint, load, monkeypatch):
    model = pickle_alone(own_checkpoint)
    monkeypatch.setattr(conversion, "CHILD", "ingot.no_such_module")
    with pytest.raises(StageError, match="ended with status 1"):
        load(model.path)


def test_what_torch_refuses_is_an_intake_error_in_one_line(own_checkpoint, load, monkeypatch, tmp_path):
    """Should the check of the headers ever let something by, torch's own is still to come."""
    model = pickle_alone(own_checkpoint)
    script = (
        "import torch\n"
        "from ingot.stages.load import unpickle\n"
        "def refuse(*_, **__): raise RuntimeError('Weights only load failed\\nand much more')\n"
        "torch.load = refuse\n"
        "raise SystemExit(unpickle.main())\n"
    )
    (tmp_path / "refusing.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(conversion, "CHILD", "refusing")
    with pytest.raises(IntakeError, match="RuntimeError: Weights only load failed") as caught:
        load(model.path)
    assert "\n" not in caught.value.what
    assert caught.value.where.endswith("pytorch_model.bin")


def test_the_process_that_reads_pickles_reaches_no_network():
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no process leave its network")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        script = (
            "import socket, sys\n"
            "from ingot.stages.load.unpickle import isolate\n"
            "address = ('127.0.0.1', int(sys.argv[1]))\n"
            "socket.create_connection(address, 5).close()\n"
            "print(isolate())\n"
            "try: socket.create_connection(address, 5)\n"
            "except OSError as error: print(type(error).__name__)\n"
        )
        port = str(server.getsockname()[1])
        command = [sys.executable, "-c", script, port]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "OSError"]


def wide_archive(path: Path, pickle: bytes, count: int) -> None:
    """A torch archive beyond 4 GiB: `data/0` of ``count`` bytes, which are a hole, and zip64 numbers."""
    import zlib

    def local(name, size, crc):
        sizes = struct.pack("<2H2Q", 1, 16, size, size) if size > 0xFFFFFFFF else b""
        narrow = min(size, 0xFFFFFFFF)
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, crc, narrow, narrow, len(name), len(sizes))
        return head + name + sizes

    def central(name, size, crc, offset):
        wide = b"".join(struct.pack("<Q", v) for v in (size, size) if size > 0xFFFFFFFF)
        wide += struct.pack("<Q", offset) if offset > 0xFFFFFFFF else b""
        extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
        narrow, place = min(size, 0xFFFFFFFF), min(offset, 0xFFFFFFFF)
        fixed = (b"PK\1\2", 45, 45, 0, 0, 0, 0, crc, narrow, narrow, len(name), len(extra), 0, 0, 0, 0, place)
        return struct.pack("<4s6H3L5H2L", *fixed) + name + extra

    entries = []
    with path.open("wb") as stream:
        records = {b"data/0": None, b"data.pkl": pickle, b"version": b"3\n", b"byteorder": b"little"}
        for short_name, content in records.items():
            name = b"archive/" + short_name
            size = count if content is None else len(content)
            crc = 0 if content is None else zlib.crc32(content)
            entries.append(central(name, size, crc, stream.tell()))
            stream.write(local(name, size, crc))
            stream.seek(size, 1) if content is None else stream.write(content)
        start = stream.tell()
        directory = b"".join(entries)
        stream.write(directory)
        end = stream.tell()
        numbers = (b"PK\6\6", 44, 45, 45, 0, 0, 4, 4, len(directory), start)
        stream.write(struct.pack("<4sQ2H2L4Q", *numbers))
        stream.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, len(directory), 0xFFFFFFFF, 0))


def test_archives_beyond_4_gib_are_read_as_zipfile_and_torch_read_them(tmp_path):
    count = 5 << 30
    small = save(tmp_path / "small.bin", {"w": torch.zeros(4, dtype=torch.int8)})
    with zipfile.ZipFile(small) as archive:
        pickle = archive.read("small/data.pkl")
    # 5 GiB as the element count and the shape, in pickle's LONG1 of eight bytes.
    number = b"\x8a\x08" + struct.pack("<q", count)
    pickle = pickle.replace(b"K\x04tq", number + b"tq").replace(b"K\x04\x85", number + b"\x85")
    path = tmp_path / "pytorch_model.bin"
    wide_archive(path, pickle, count)
    info = read_pickled(path).info("w")
    assert (info.shape, info.nbytes) == ((count,), count)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("archive/data/0").file_size == count
    assert torch.load(path, weights_only=True, mmap=True)["w"].shape == (count,)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans(), st.binary(max_size=40))
def test_any_damage_gives_an_intake_error_or_tensors_within_the_file(
    tmp_path_factory, position, value, zipped, junk
):
    folder = tmp_path_factory.mktemp("damage")
    path = save(folder / "pytorch_model.bin", {"a": torch.ones(3, 2), "b": torch.ones(1)}, zipped=zipped)
    whole = path.read_bytes()
    position %= len(whole)
    for content in (
        whole[:position] + bytes([value]) + whole[position + 1 :],
        whole[:position],
        whole[:position] + junk + whole[position:],
        junk,
    ):
        path.write_bytes(content)
        try:
            found = read_pickled(path)
        except IntakeError:
            continue
        for name in found.tensors:
            assert found.info(name).stop <= len(content)
