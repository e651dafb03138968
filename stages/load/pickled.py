"""Files of pickled weights, from their headers: which tensors they hold, known while planning.

Nothing is unpickled here (see `torch_pickle.py`). Two forms exist: the zip file that torch writes since 1.6,
and before it four pickles, the state dict among them, with the elements behind them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ...artifacts.errors import IntakeError
from ...artifacts.tensor_header import HeaderFault, TensorInfo, open_regular
from ...artifacts.tensors import TensorSource
from ..model.checkpoint import CONFIG_FILE, PICKLED, Checkpoint, read_index, read_object, weight_files
from .torch_archive import MAGIC, Record, check_crc, read_at, read_records
from .torch_pickle import MAX_PICKLE_BYTES, PickledTensor, read_state_dict, read_value

if TYPE_CHECKING:
    from .torch_pickle import Storage

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
COUNT_BYTES = 8
PICKLE_RECORD = "data.pkl"


@dataclass(frozen=True)
class PickledFile:
    """One file. tensors: by name.  places: where each storage's elements begin, by its key.

    records: what the zip file has; empty for the older form.
    """

    path: Path
    tensors: Mapping[str, PickledTensor]
    places: Mapping[str, int]
    records: Mapping[str, Record]

    def info(self, name: str) -> TensorInfo:
        """A tensor as safetensors would list it; its offsets are exact where it lies in C order."""
        tensor = self.tensors[name]
        whole = TensorInfo(name, tensor.storage.dtype, tensor.shape, self.path, 0, 0)
        width = tensor.storage.nbytes // max(1, tensor.storage.count)
        start = self.places[tensor.storage.key] + tensor.offset * width
        return TensorInfo(name, whole.dtype, whole.shape, self.path, start, start + whole.nbytes)


def open_pickled(directory: Path) -> Checkpoint:
    """A checkpoint of pickled weights whose tensors can be listed, and not read.

    Raises IntakeError for a missing or malformed config, index or file, for one that holds anything but
    tensors, and for an index that does not name exactly the tensors that its shards hold.
    """
    config = read_object(directory / CONFIG_FILE)
    index = read_index(directory, PICKLED)
    infos: dict[str, TensorInfo] = {}
    for file in pickled_files(directory):
        for name in file.tensors:
            if name in infos:
                what = f"{name!r} is stored twice, also in {infos[name].file.name}"
                raise IntakeError(what, where=str(file.path))
            infos[name] = file.info(name)
    if index is not None and (odd := set(index).symmetric_difference(infos)):
        name = min(odd)[:80]
        fault = "its shards lack" if name in index else "it does not name, though a shard holds it,"
        where = str(directory / PICKLED.index)
        raise IntakeError(f"the index does not fit: {fault} {name!r}", where=where)
    return Checkpoint(directory, config, TensorSource.of_headers(infos))


def pickled_files(directory: Path) -> list[PickledFile]:
    """The files of pickled weights of a checkpoint; raises IntakeError as :func:`read_pickled` does."""
    return [read_pickled(path) for path in weight_files(directory, read_index(directory, PICKLED), PICKLED)]


def read_pickled(path: Path) -> PickledFile:
    """What one file holds.

    Raises IntakeError for a file that is missing, not regular, cut short, in neither of torch's forms, or
    whose pickle names, calls or holds anything that a mapping of tensors does not need.
    """
    with open_regular(path) as stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            if read_at(stream, 0, len(MAGIC)) == MAGIC:
                return read_archive(stream, size, path)
            return read_legacy(stream, size, path)
        except HeaderFault as fault:
            raise refused(path, fault) from None


def read_archive(stream: BinaryIO, size: int, path: Path) -> PickledFile:
    """The zip form: `data.pkl`, and a record of elements for each storage."""
    records = read_records(stream, size)
    pickle = records.get(PICKLE_RECORD)
    if pickle is None or pickle.size > MAX_PICKLE_BYTES:
        raise HeaderFault("its data.pkl is missing, or larger than any state dict's")
    check_crc(stream, PICKLE_RECORD, pickle)
    order = records.get("byteorder")
    if order is not None and read_at(stream, order.start, min(order.size, 16)) != b"little":
        raise HeaderFault("its numbers are not little-endian")
    data = BytesIO(read_at(stream, pickle.start, pickle.size))
    tensors = read_state_dict(data)
    if data.read(1):
        raise HeaderFault("something follows its pickle")
    for storage in storages(tensors).values():
        record = records.get(f"data/{storage.key}")
        if record is None or record.size != storage.nbytes:
            have = "is missing" if record is None else f"has {record.size:,} bytes, not {storage.nbytes:,}"
            raise HeaderFault(f"its record data/{storage.key[:80]} {have}")
    places = {key: records[f"data/{key}"].start for key in storages(tensors)}
    return PickledFile(path, tensors, places, records)


def read_legacy(stream: BinaryIO, size: int, path: Path) -> PickledFile:
    """The older form: a magic number, a version, the system, the state dict, the keys; then the elements."""
    data = BytesIO(read_at(stream, 0, min(size, MAX_PICKLE_BYTES)))
    if read_value(data) != LEGACY_MAGIC or read_value(data) != LEGACY_PROTOCOL:
        raise HeaderFault("it is a pickle, but none that torch.save wrote")
    system = read_value(data)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise HeaderFault("its numbers are not little-endian")
    tensors = read_state_dict(data)
    known = storages(tensors)
    keys = read_value(data)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(known):
        raise HeaderFault("its list of storages is not that of its tensors")
    position = data.tell()
    places = {}
    for key in keys:
        count = int.from_bytes(read_at(stream, position, COUNT_BYTES), "little")
        if count != known[key].count:
            raise HeaderFault(f"its storage {key[:80]!r} has {count:,} elements, not {known[key].count:,}")
        places[key] = position + COUNT_BYTES
        position = places[key] + known[key].nbytes
    if position != size:
        raise HeaderFault(f"it has {size:,} bytes, not {position:,}: it is cut short, or more follows it")
    return PickledFile(path, tensors, places, {})


def storages(tensors: Mapping[str, PickledTensor]) -> dict[str, Storage]:
    """The storages of all tensors by key; raises HeaderFault where two tensors disagree about one."""
    found: dict[str, Storage] = {}
    for tensor in tensors.values():
        if found.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise HeaderFault(f"two tensors disagree about the storage {tensor.storage.key[:80]!r}")
    return found


def refused(path: Path, fault: HeaderFault) -> IntakeError:
    """The error for a file of pickled weights that is not loaded."""
    return IntakeError(
        f"not a usable file of pickled weights: {fault}",
        where=str(path),
        fix="do not load it elsewhere either, unless you know why; ask for safetensors",
    )
