"""Cases 28 to 42: pickles and the zip archives that torch puts them in."""

from __future__ import annotations

import pickle
import shutil
import struct
import zipfile

from .ways import (
    PICKLE,
    WEIGHTS,
    Case,
    checkpoint,
    load_with_pickles,
    measure_on,
    plan,
    plan_with_pickles,
)


def calling(module, name, *arguments):
    """A pickle that calls a function by name, in protocol 2, as anybody may write one."""

    def text(value):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    body = b"(" + b"".join(map(text, arguments)) + b"t"
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + body + b"R."


def pickled_alone(case):
    directory = shutil.copytree(case.sound, case.place / "model")
    (directory / WEIGHTS).unlink()
    return directory


def rewritten(change):
    """A checkpoint whose pickle is the sound archive with its records changed: [(name, bytes, method)]."""

    def make(case):
        directory = pickled_alone(case)
        path = directory / PICKLE
        with zipfile.ZipFile(path) as archive:
            records = [[info.filename, archive.read(info), zipfile.ZIP_STORED] for info in archive.infolist()]
        with zipfile.ZipFile(path, "w") as archive:
            for name, content, method in change(records):
                archive.writestr(zipfile.ZipInfo(name), content, method)
        return directory

    return make


def added(name, content, method=zipfile.ZIP_STORED):
    """The sound archive with one more record, in the folder that all are in."""

    def change(records):
        return [*records, [records[0][0].replace("data.pkl", name), content, method]]

    return rewritten(change)


def with_pickle(payload):
    """The sound archive with another pickle in it."""

    def change(records):
        return [[n, payload if n.endswith("data.pkl") else c, m] for n, c, m in records]

    return rewritten(change)


def patched(find, replace, *, last=False):
    """The sound archive with bytes replaced where they are, so that nothing else changes."""

    def make(case):
        directory = pickled_alone(case)
        path = directory / PICKLE
        data = path.read_bytes()
        at = data.rindex(find) if last else data.index(find)
        path.write_bytes(data[:at] + replace + data[at + len(find) :])
        return directory

    return make


def bare(payload, name=PICKLE):
    """A pickle that is no archive, under any name."""

    def make(case):
        directory = checkpoint(case) if name == WEIGHTS else pickled_alone(case)
        (directory / name).write_bytes(payload)
        return directory

    return make


def flipped_weight(case):
    directory = pickled_alone(case)
    path = directory / PICKLE
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda each: each.file_size)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 4000] ^= 1
    path.write_bytes(data)
    return directory


def grown_tensor(case):
    """A tensor whose pickle says 2^40 elements with stride 0, over the few that are stored."""
    directory = pickled_alone(case)
    name = b"X\x01\x00\x00\x00w"
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    rest = (
        b"K\x00\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85K\x00\x85\x89ccollections\nOrderedDict\n)R"
    )
    body = b"\x80\x02}" + name + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tRs."
    with zipfile.ZipFile(directory / PICKLE, "w") as archive:
        for record, content in (("data.pkl", body), ("data/0", b"\0" * 4), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"archive/{record}"), content)
    return directory


def npy_of_objects(case):
    path = case.place / "evaluation.npy"
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    padded = header + b" " * (117 - len(header)) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + OS_SYSTEM)
    return path


OS_SYSTEM = calling("posix", "system", "touch /tmp/ingot-was-here")
BOMB = 64 << 20

CASES = {
    "28": Case(with_pickle(OS_SYSTEM), plan_with_pickles, "pytorch_model.bin", "names 'posix.system'"),
    "28b": Case(with_pickle(OS_SYSTEM), plan, "pytorch_model.bin", "its weights are pickled"),
    "29": Case(
        with_pickle(calling("builtins", "__import__", "os")),
        plan_with_pickles,
        "pytorch_model.bin",
        "names 'builtins.__import__'",
    ),
    "30": Case(
        with_pickle(calling("importlib", "import_module", "os")),
        plan_with_pickles,
        "pytorch_model.bin",
        "names 'importlib.import_module'",
    ),
    "31": Case(
        with_pickle(calling("torch.hub", "load", "a/b", "c")),
        plan_with_pickles,
        "pytorch_model.bin",
        "names 'torch.hub.load'",
    ),
    "32": Case(
        with_pickle(calling("torch.utils.cpp_extension", "load_inline", "x")),
        plan_with_pickles,
        "pytorch_model.bin",
        "names 'torch.utils.cpp_extension.load_inline'",
    ),
    "33": Case(
        with_pickle(calling("nobody_knows_this", "run")),
        plan_with_pickles,
        "pytorch_model.bin",
        "names 'nobody_knows_this.run'",
    ),
    "34": Case(
        with_pickle(OS_SYSTEM[:-1] + b"\xff\xff"),
        plan_with_pickles,
        "pytorch_model.bin",
        "names 'posix.system'",
    ),
    "34b": Case(
        with_pickle(b"\x80\x02}X\xff\xff\xff\x7f"),
        plan_with_pickles,
        "pytorch_model.bin",
        "its pickle is damaged",
    ),
    "35": Case(bare(OS_SYSTEM, WEIGHTS), plan, "model.safetensors", "not a usable safetensors file"),
    "35b": Case(bare(OS_SYSTEM), plan_with_pickles, "pytorch_model.bin", "names 'posix.system'"),
    "35c": Case(
        lambda case: bare(b"\x80\x02\xffcos\n", "text.txt")(case) / "text.txt",
        measure_on,
        "text.txt",
        "not UTF-8",
    ),
    "35d": Case(
        bare(pickle.dumps({"a": [1, 2]}, protocol=4)),
        plan_with_pickles,
        "pytorch_model.bin",
        "which no saved weights need",
    ),
    "36": Case(
        added("inner.zip", b"PK\3\4"), plan_with_pickles, "pytorch_model.bin", "inner.zip' is none of those"
    ),
    "37": Case(patched(b"/data.pkl", b"/beta.pkl"), plan_with_pickles, "pytorch_model.bin", "is called"),
    "38": Case(flipped_weight, load_with_pickles, "pytorch_model.bin", "CRC-32"),
    "38b": Case(
        patched(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
        plan_with_pickles,
        "pytorch_model.bin",
        "CRC-32",
    ),
    "39": Case(
        rewritten(lambda r: [*r, ["../../etc/cron.d/x", b"x", 0]]),
        plan_with_pickles,
        "pytorch_model.bin",
        "'../../etc/cron.d/x' is none of those",
    ),
    "40": Case(
        added("data/99", bytes(BOMB), zipfile.ZIP_DEFLATED),
        plan_with_pickles,
        "pytorch_model.bin",
        "is compressed or encrypted",
    ),
    "41": Case(
        grown_tensor, plan_with_pickles, "pytorch_model.bin", "a tensor of 1,099,511,627,776 elements over 1"
    ),
    "42": Case(npy_of_objects, measure_on, "evaluation.npy", "not UTF-8"),
}
