"""How each hostile input is made and reaches Ingot, without torch or onnx, whose memory would count."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

WEIGHTS = "model.safetensors"
PICKLE = "pytorch_model.bin"
ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


# --- ways in -----------------------------------------------------------------------------------------------


def plan(directory):
    from ingot.stages.load.intake import inspect_source

    inspect_source(directory)


def plan_with_pickles(directory):
    from ingot.stages.load.intake import inspect_source

    inspect_source(directory, allow_pickle=True)


def load(directory, allow_pickle=False, progress=lambda *_: None):
    from ingot.artifacts.store import Store
    from ingot.stages import base
    from ingot.stages.load.stage import LoadParams

    store = Store.open(directory.parent / "store")
    params = LoadParams(model=str(directory), allow_pickle=allow_pickle)
    with store.outbox() as outbox:
        context = base.Context(params, {}, outbox, directory.parent, 0, 1, progress, lambda _: None)
        result = base.get("load").run(context)
        outbox.publish("checkpoint", result.facts)


def load_while_it_changes(directory):
    def change(_done, _total, what):
        if what == f"copying {WEIGHTS}":
            path = directory / WEIGHTS
            path.write_bytes(path.read_bytes()[:-4])

    load(directory, progress=change)


def open_delivery(directory):
    from ingot.targets.runtimes import onnx

    onnx.open(directory)


def read_recipe(path):
    from ingot.pipeline.recipe import load_recipe

    load_recipe(path)


def name_as_model(path):
    from ingot.pipeline.recipe import recipe_from_options

    recipe_from_options(str(path), ["cpu"])


def measure_on(path):
    from ingot.stages.model.text import read_documents

    read_documents(path)


# --- safetensors -------------------------------------------------------------------------------------------


def checkpoint(case, name="model"):
    return shutil.copytree(case.sound, case.place / name, ignore=shutil.ignore_patterns(PICKLE))


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


def indexed(weight_map):
    """A checkpoint whose index says this; model.safetensors is its only shard, as shard-1.safetensors."""

    def make(case):
        directory = checkpoint(case)
        (directory / WEIGHTS).rename(directory / "shard-1.safetensors")
        names = json.loads(header_of(directory / "shard-1.safetensors"))
        names.pop("__metadata__", None)
        value = {"weight_map": weight_map(sorted(names))}
        (directory / f"{WEIGHTS}.index.json").write_text(json.dumps(value))
        return directory

    return make


def header_of(path):
    data = path.read_bytes()
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]]


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

SAFETENSORS = {
    "1": (raw(struct.pack("<Q", 1 << 63)), plan),
    "2": (raw(b""), plan),
    "3": (raw(b"\x10\x00"), plan),
    "4": (endless_header, plan),
    "5": (headed(b" " * 1000), plan),
    "6": (headed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [1, 3]}}, b"123"), plan),
    "7": (headed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [3, 5]}}, b"12345"), plan),
    "8": (headed({"a": ENTRY}, b"123"), plan),
    "9": (truncated, plan),
    "10": (headed(DUPLICATE), plan),
    "11": (headed(OTHER_DTYPE), plan),
    "12": (changed(shape=[1 << 40, 1 << 40]), plan),
    "13": (changed(shape=[-1, -2]), plan),
    "13b": (changed(shape=[2.0]), plan),
    "14": (changed(dtype="F32"), plan),
    "15": (changed(data_offsets=[2, 0]), plan),
    "16": (changed(dtype="F5"), plan),
    "17": (headed(b'{"\xff":1}'), plan),
    "18": (headed(b'{"a":' + b"[" * 100_000), plan),
    "18b": (headed(b'{"a":' * 100_000), plan),
    "19": (headed({"a": ENTRY, "__metadata__": {"n": 1}}), plan),
    "20": (headed({"../../etc/x": ENTRY}), plan),
    "21": (headed({"a\x00b": ENTRY}), plan),
    "21b": (headed({"a\nb": ENTRY}), plan),
    "21c": (headed({"\x1b[31mred": ENTRY}), plan),
    "22": (headed(many_tensors), plan),
    "23": (with_nan, load),
    "24": (indexed(lambda names: {names[0]: "gone.safetensors"}), plan),
    "25": (indexed(lambda names: dict.fromkeys(names, "../shard-1.safetensors")), plan),
    "26": (in_two_shards, plan),
    "27": (checkpoint, load_while_it_changes),
}  # fmt: skip


# --- pickle ------------------------------------------------------------------------------------------------


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


def load_with_pickles(directory):
    load(directory, allow_pickle=True)


OS_SYSTEM = calling("posix", "system", "touch /tmp/ingot-was-here")
BOMB = 64 << 20

PICKLES = {
    "28": (with_pickle(OS_SYSTEM), plan_with_pickles),
    "28b": (with_pickle(OS_SYSTEM), plan),
    "29": (with_pickle(calling("builtins", "__import__", "os")), plan_with_pickles),
    "30": (with_pickle(calling("importlib", "import_module", "os")), plan_with_pickles),
    "31": (with_pickle(calling("torch.hub", "load", "a/b", "c")), plan_with_pickles),
    "32": (with_pickle(calling("torch.utils.cpp_extension", "load_inline", "x")), plan_with_pickles),
    "33": (with_pickle(calling("nobody_knows_this", "run")), plan_with_pickles),
    "34": (with_pickle(OS_SYSTEM[:-1] + b"\xff\xff"), plan_with_pickles),
    "34b": (with_pickle(b"\x80\x02}X\xff\xff\xff\x7f"), plan_with_pickles),
    "35": (bare(OS_SYSTEM, WEIGHTS), plan),
    "35b": (bare(OS_SYSTEM), plan_with_pickles),
    "35c": (lambda case: bare(b"\x80\x02\xffcos\n", "text.txt")(case) / "text.txt", measure_on),
    "35d": (bare(pickle.dumps({"a": [1, 2]}, protocol=4)), plan_with_pickles),
    "36": (added("inner.zip", b"PK\3\4"), plan_with_pickles),
    "37": (patched(b"/data.pkl", b"/beta.pkl"), plan_with_pickles),
    "38": (flipped_weight, load_with_pickles),
    "38b": (patched(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"), plan_with_pickles),
    "39": (rewritten(lambda r: [*r, ["../../etc/cron.d/x", b"x", 0]]), plan_with_pickles),
    "40": (
        added("data/99", bytes(BOMB), zipfile.ZIP_DEFLATED),
        plan_with_pickles,
    ),
    "41": (grown_tensor, plan_with_pickles),
    "42": (npy_of_objects, measure_on),
}  # fmt: skip


# --- ONNX --------------------------------------------------------------------------------------------------


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


ONNX = {
    "43": (with_tensor(location="../w.data"), open_delivery),
    "44": (with_tensor(location="/etc/passwd"), open_delivery),
    "45": (with_data(symlinked), open_delivery),
    "46": (in_linked_directory, open_delivery),
    "47": (with_data(lambda path: (path.parent / "second").hardlink_to(path)), open_delivery),
    "48": (with_data(piped), open_delivery),
    "49": (with_tensor(offset="4096"), open_delivery),
    "50": (with_tensor(offset="-16"), open_delivery),
    "51": (with_tensor(length=str(10**12)), open_delivery),
    "52": (with_tensor(length="8"), open_delivery),
    "53": (with_tensor(location=None), open_delivery),
    "53b": (with_data(Path.unlink), open_delivery),
    "54": (over_2_gib, open_delivery),
    "55": (lambda case: delivery(case, node(["b"], ["a"]), node(["a"], ["b"])), open_delivery),
    "55b": (recursive_function, open_delivery),
    "56": (lambda case: delivery(case, node(["x"], ["y"], "Run", "evil.ops")), open_delivery),
}


# --- everything else ---------------------------------------------------------------------------------------


def written(name, text):
    def make(case):
        path = case.place / name
        path.write_text(text() if callable(text) else text)
        return path

    return make


def alias_bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


def edited(name, **changes):
    def make(case):
        directory = checkpoint(case)
        path = directory / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return directory

    return make


def linked_outside(case):
    directory = checkpoint(case)
    (directory / "config.json").unlink()
    (directory / "config.json").symlink_to("/etc/hostname")
    return directory


def linked_in_a_loop(case):
    directory = checkpoint(case)
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to(WEIGHTS)
    return directory


def setuid(case):
    directory = checkpoint(case)
    (directory / WEIGHTS).chmod(0o4755)
    return directory


def twin_in_capitals(case):
    directory = checkpoint(case)
    shutil.copy(directory / "config.json", directory / "Config.json")
    return directory


def with_pattern(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return edited("tokenizer.json", pre_tokenizer=split)


def with_template(text):
    def make(case):
        directory = checkpoint(case)
        (directory / "chat_template.jinja").write_text(text)
        return directory

    return make


def tar_of(**member):
    """A tar with one entry of that kind, given as the model."""

    def make(case):
        path = case.place / "model.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo(member.pop("name", "x"))
            for key, value in member.items():
                setattr(entry, key, value)
            archive.addfile(entry)
        return path

    return make


def zip_without_a_name(case):
    path = case.place / "model"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    return path


OTHERS = {
    "57": (written("ingot.yaml", alias_bomb), read_recipe),
    "57b": (written("ingot.yaml", "model: !!python/object/apply:os.system ['true']\n"), read_recipe),
    "58": (edited("config.json", auto_map={"AutoModel": "modeling.Mine"}), plan),
    "59": (linked_outside, plan),
    "59b": (linked_in_a_loop, plan),
    "59c": (setuid, plan),
    "59d": (indexed(lambda names: dict.fromkeys(names, "aux.safetensors")), plan),
    "59e": (twin_in_capitals, plan),
    "60": (with_pattern("(a+)+$"), plan),
    "60b": (with_pattern(r"[\s\S]*[\s\S]*[\s\S]*[\x00][\x01]"), load),
    "60c": (with_template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), load),
    "61": (tar_of(name="../../etc/x"), name_as_model),
    "61b": (tar_of(name="/etc/x"), name_as_model),
    "61c": (tar_of(type=tarfile.LNKTYPE, linkname="/etc/passwd"), name_as_model),
    "61d": (tar_of(type=tarfile.CHRTYPE, devmajor=1, devminor=3), name_as_model),
    "61e": (zip_without_a_name, plan),
}

GROUPS = {"safetensors": SAFETENSORS, "pickle": PICKLES, "onnx": ONNX, "other": OTHERS}
