"""Cases 1 to 27: safetensors files, their headers and their indexes."""

from __future__ import annotations

import json
import os
import shutil
import struct

from .ways import WEIGHTS, Case, checkpoint, indexed, load, load_while_it_changes, plan

ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


def raw(content):
    """A checkpoint whose weights are these bytes."""

    def make(case):
        directory = checkpoint(case)
        (directory / WEIGHTS).write_bytes(content() if callable(content) else content)
        return directory

    return make


def headed(header, data=b"12"):
    """A checkpoint whose weights have this header: bytes, or what JSON makes of a value."""

    def content():
        value = header() if callable(header) else header
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return struct.pack("<Q", len(text)) + text + data

    return raw(content)


def endless_header(case):
    """A header of 101 MB, as a hole, so that making it takes no memory."""
    directory = raw(struct.pack("<Q", 101 << 20) + b"{")(case)
    os.truncate(directory / WEIGHTS, 102 << 20)
    return directory


def many_tensors():
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return b"{" + b",".join(entry % number for number in range(200_000)) + b"}"


def changed(**changes):
    return headed({"a": {**ENTRY, **changes}})


def truncated(case):
    directory = checkpoint(case)
    path = directory / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    return directory


def with_nan(case):
    directory = checkpoint(case)
    path = directory / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", float("nan")))
    return directory


def in_two_shards(case):
    directory = indexed(lambda names: dict.fromkeys(names, "shard-1.safetensors"))(case)
    shutil.copy(directory / "shard-1.safetensors", directory / "shard-2.safetensors")
    path = directory / f"{WEIGHTS}.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    weight_map[min(weight_map)] = "shard-2.safetensors"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return directory


DUPLICATE = b'{"a":%s,"a":%s}' % (json.dumps(ENTRY).encode(), json.dumps(ENTRY).encode())
OTHER_DTYPE = b'{"a":%s,"a":%s}' % (
    json.dumps(ENTRY).encode(),
    json.dumps({**ENTRY, "dtype": "I8"}).encode(),
)

CASES = {
    "1": Case(raw(struct.pack("<Q", 1 << 63)), plan, "model.safetensors", "over the limit"),
    "2": Case(raw(b""), plan, "model.safetensors", "it is empty"),
    "3": Case(raw(b"\x10\x00"), plan, "model.safetensors", "fewer than the 8"),
    "4": Case(endless_header, plan, "model.safetensors", "over the limit"),
    "5": Case(headed(b" " * 1000), plan, "model.safetensors", "does not begin with '{'"),
    "6": Case(
        headed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [1, 3]}}, b"123"),
        plan,
        "model.safetensors",
        "'b' overlaps",
    ),
    "7": Case(
        headed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [3, 5]}}, b"12345"),
        plan,
        "model.safetensors",
        "'b' leaves a hole",
    ),
    "8": Case(headed({"a": ENTRY}, b"123"), plan, "model.safetensors", "1 bytes follow the last tensor"),
    "9": Case(truncated, plan, "model.safetensors", "cut short"),
    "10": Case(headed(DUPLICATE), plan, "model.safetensors", "the key 'a' twice"),
    "11": Case(headed(OTHER_DTYPE), plan, "model.safetensors", "the key 'a' twice"),
    "12": Case(changed(shape=[1 << 40, 1 << 40]), plan, "model.safetensors", "but its offsets span"),
    "13": Case(changed(shape=[-1, -2]), plan, "model.safetensors", "impossible shape"),
    "13b": Case(changed(shape=[2.0]), plan, "model.safetensors", "impossible shape"),
    "14": Case(changed(dtype="F32"), plan, "model.safetensors", "8 bytes, but its offsets span 2"),
    "15": Case(changed(data_offsets=[2, 0]), plan, "model.safetensors", "offsets span -2"),
    "16": Case(changed(dtype="F5"), plan, "model.safetensors", "unknown dtype 'F5'"),
    "17": Case(headed(b'{"\xff":1}'), plan, "model.safetensors", "not UTF-8"),
    "18": Case(headed(b'{"a":' + b"[" * 100_000), plan, "model.safetensors", "nested too deeply"),
    "18b": Case(headed(b'{"a":' * 100_000), plan, "model.safetensors", "more entries than the limit"),
    "19": Case(headed({"a": ENTRY, "__metadata__": {"n": 1}}), plan, "model.safetensors", "__metadata__"),
    "20": Case(
        headed({"../../etc/x": ENTRY}), plan, "model.safetensors", "'../../etc/x', which is not a plain name"
    ),
    "21": Case(headed({"a\x00b": ENTRY}), plan, "model.safetensors", "'a\\x00b', which is not a plain name"),
    "21b": Case(headed({"a\nb": ENTRY}), plan, "model.safetensors", "'a\\nb', which is not a plain name"),
    "21c": Case(
        headed({"\x1b[31mred": ENTRY}), plan, "model.safetensors", "'\\x1b[31mred', which is not a plain name"
    ),
    "22": Case(headed(many_tensors), plan, "model.safetensors", "more entries than the limit"),
    "23": Case(with_nan, load, "model.safetensors", "holds 1 NaN or infinite values"),
    "24": Case(
        indexed(lambda names: {names[0]: "gone.safetensors"}),
        plan,
        "model.safetensors.index.json",
        "the shard gone.safetensors is missing",
    ),
    "25": Case(
        indexed(lambda names: dict.fromkeys(names, "../shard-1.safetensors")),
        plan,
        "model.safetensors.index.json",
        "into '../shard-1.safetensors'",
    ),
    "26": Case(in_two_shards, plan, "shard-2.safetensors", "is stored twice"),
    "27": Case(checkpoint, load_while_it_changes, "model.safetensors", "it changed while it was loaded"),
}
