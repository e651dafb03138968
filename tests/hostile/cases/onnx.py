"""Cases 43 to 56: deliveries with a graph whose bytes were written by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .ways import Case, open_delivery


def varint(value):
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def blob(number, content):
    """A field of bytes, text or an inner message."""
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(field, value):
    return varint(field << 3) + varint(value)


def node(inputs, outputs, op="Identity", domain=""):
    parts = [blob(1, name) for name in inputs] + [blob(2, name) for name in outputs]
    return blob(1, b"".join(parts) + blob(4, op) + (blob(7, domain) if domain else b""))


def graph_of(*parts):
    return blob(7, blob(2, "g") + b"".join(parts) + blob(11, blob(1, "x")))


def external(**entries):
    """A float tensor [4], 16 bytes, whose data are elsewhere."""
    said = {"location": "model.onnx.data", "offset": "0", "length": "16", **entries}
    pairs = b"".join(blob(13, blob(1, k) + blob(2, v)) for k, v in said.items() if v is not None)
    return blob(5, number(1, 4) + number(2, 1) + blob(8, "w") + pairs + number(14, 1))


def delivery(case, *parts, model=None):
    directory = case.place / "delivery"
    directory.mkdir()
    about = {
        "schema": "ingot/session/v1", "format": "onnx", "task": "encoder", "layers": 1, "hidden": 4,
        "kv_heads": 1, "head_dim": 4, "vocabulary": 8, "context": 8,
    }  # fmt: skip
    (directory / "ingot.json").write_text(json.dumps(about))
    data = number(1, 8) + graph_of(*parts) + blob(8, number(2, 17)) if model is None else model
    (directory / "model.onnx").write_bytes(data)
    (directory / "model.onnx.data").write_bytes(bytes(16))
    return directory


def with_tensor(**entries):
    return lambda case: delivery(case, external(**entries))


def with_data(change):
    """A sound graph whose file of weights is replaced by something else."""

    def make(case):
        directory = delivery(case, external())
        change(directory / "model.onnx.data")
        return directory

    return make


def symlinked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def piped(path):
    path.unlink()
    os.mkfifo(path)


def in_linked_directory(case):
    directory = delivery(case, external(location="linked/w.data"))
    (case.place / "other").mkdir()
    (case.place / "other" / "w.data").write_bytes(bytes(16))
    (directory / "linked").symlink_to(case.place / "other")
    return directory


def over_2_gib(case):
    directory = delivery(case)
    with (directory / "model.onnx").open("ab") as stream:
        stream.truncate(1 << 31)
    return directory


def recursive_function(case):
    function = blob(25, blob(1, "F") + blob(10, "own") + blob(7, blob(4, "F") + blob(7, "own")))
    return delivery(case, model=number(1, 8) + graph_of() + blob(8, number(2, 17)) + function)


CASES = {
    "43": Case(
        with_tensor(location="../w.data"),
        open_delivery,
        "model.onnx",
        "'../w.data', which is not the name of a file beside it",
    ),
    "44": Case(
        with_tensor(location="/etc/passwd"),
        open_delivery,
        "model.onnx",
        "'/etc/passwd', which is not the name of a file beside it",
    ),
    "45": Case(with_data(symlinked), open_delivery, "model.onnx", "is a symlink or no regular file"),
    "46": Case(
        in_linked_directory,
        open_delivery,
        "model.onnx",
        "'linked/w.data', which is not the name of a file beside it",
    ),
    "47": Case(
        with_data(lambda path: (path.parent / "second").hardlink_to(path)),
        open_delivery,
        "model.onnx",
        "has 2 hard links",
    ),
    "48": Case(with_data(piped), open_delivery, "model.onnx", "is a symlink or no regular file"),
    "49": Case(
        with_tensor(offset="4096"),
        open_delivery,
        "model.onnx",
        "ends at byte 4,112 of model.onnx.data, which has 16",
    ),
    "50": Case(
        with_tensor(offset="-16"),
        open_delivery,
        "model.onnx",
        "the offset of 'w' is '-16', not a whole number",
    ),
    "51": Case(
        with_tensor(length=str(10**12)),
        open_delivery,
        "model.onnx",
        "takes 16 bytes by its shape, but names 1,000,000,000,000",
    ),
    "52": Case(
        with_tensor(length="8"), open_delivery, "model.onnx", "takes 16 bytes by its shape, but names 8"
    ),
    "53": Case(with_tensor(location=None), open_delivery, "model.onnx", "does not say where"),
    "53b": Case(with_data(Path.unlink), open_delivery, "model.onnx", "cannot be read"),
    "54": Case(over_2_gib, open_delivery, "model.onnx", "1 byte to 2 GiB"),
    "55": Case(
        lambda case: delivery(case, node(["b"], ["a"]), node(["a"], ["b"])),
        open_delivery,
        "model.onnx",
        "before anything makes it: a circle",
    ),
    "55b": Case(recursive_function, open_delivery, "model.onnx", "functions of its own"),
    "56": Case(
        lambda case: delivery(case, node(["x"], ["y"], "Run", "evil.ops")),
        open_delivery,
        "model.onnx",
        "operators of 'evil.ops'",
    ),
}
