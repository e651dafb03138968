"""A checkpoint directory as transformers saves it: config.json, tokenizer, safetensors in one or many files.

Opening one reads headers alone and imports nothing heavy; tensors are mapped and read when asked for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ...artifacts.strict_json import parse_object
from ...artifacts.tensors import TensorSource
from .families import Architecture, Outline, architecture, outline

if TYPE_CHECKING:
    from ...artifacts.outbox import Outbox


@dataclass(frozen=True)
class WeightLayout:
    """What files of weights are called: the only one, or the index of many; all end in ``suffix``."""

    single: str
    index: str
    suffix: str

    def is_in(self, directory: Path) -> bool:
        """Whether a directory has such weights, a dead symlink included."""
        return bool(present(directory, (self.single, self.index)))


SAFETENSORS = WeightLayout("model.safetensors", "model.safetensors.index.json", ".safetensors")
PICKLED = WeightLayout("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin")

CONFIG_FILE = "config.json"
WEIGHTS_FILE = SAFETENSORS.single
INDEX_FILE = SAFETENSORS.index
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
SIDECAR_FILES = (
    CONFIG_FILE, "generation_config.json", *TOKENIZER_FILES,
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "NOTICE.md",
)  # fmt: skip

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
# The largest tokenizers of today are about 35 MB, the largest indices 10.
MAX_TOKENIZER_BYTES = 64 << 20
MAX_JSON_BYTES = 16 << 20
# A tokenizer without a limit says 10^30.
MOST_CONTEXT = 1 << 31
# Plain on every file system and terminal: an index is data, and its shards' names become paths.
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# Devices on Windows, whatever the suffix.
RESERVED_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. config: the content of config.json.  tensors: all of its safetensors as one."""

    directory: Path
    config: Mapping[str, object]
    tensors: TensorSource

    @staticmethod
    def open(directory: Path) -> Checkpoint:
        """Opens a directory of a config and safetensors.

        Raises IntakeError for a missing or malformed config, index or safetensors file, and for an index that
        does not name exactly the tensors that its shards hold.
        """
        config = read_object(directory / CONFIG_FILE)
        index = read_index(directory)
        tensors = TensorSource.open(weight_files(directory, index))
        if index is not None and (odd := set(index).symmetric_difference(tensors.names())):
            name = min(odd)
            fault = "its shards lack" if name in index else "it does not name, though a shard holds it,"
            name = name[:SHOWN_CHARACTERS]
            raise IntakeError(f"the index does not fit: {fault} {name!r}", where=str(directory / INDEX_FILE))
        return Checkpoint(directory, config, tensors)

    @functools.cached_property
    def architecture(self) -> Architecture:
        """What the config and the names of the tensors describe; raises IntakeError for unknown ones."""
        return architecture(self.config, str(self.directory / CONFIG_FILE), self.tensors.names())

    @functools.cached_property
    def outline(self) -> Outline:
        """The network from outside, in the table or not; raises IntakeError for what can be neither."""
        where = str(self.directory / CONFIG_FILE)
        return outline(self.config, where, self.tensors.names(), _most_tokens(self.directory))

    def sidecars(self) -> tuple[Path, ...]:
        """The files beside the weights: config, generation settings, tokenizer, chat template, licence."""
        return present(self.directory, SIDECAR_FILES)

    def copy_sidecars(self, output: Outbox, config: Mapping[str, object] | None = None) -> None:
        """Copies the files beside the weights into an artifact in the making, byte for byte.

        config: what is written in place of config.json, where the network is another one now.
        """
        for path in self.sidecars():
            if config is None or path.name != CONFIG_FILE:
                output.copy_in(path, path.name)
        if config is not None:
            output.write_json(CONFIG_FILE, config)


def present(directory: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Those of ``names`` that exist in ``directory``, symlinks included."""
    return tuple(path for path in (directory / name for name in names) if path.is_file() or path.is_symlink())


def read_object(path: Path) -> dict[str, object]:
    """The JSON object in a file; raises IntakeError when it is missing, too large or anything else."""
    most_bytes = MAX_TOKENIZER_BYTES if path.name == TOKENIZER_FILE else MAX_JSON_BYTES
    try:
        with path.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except OSError as error:
        fix = "give the directory that save_pretrained() wrote"
        raise IntakeError(
            f"{path.name} cannot be read: {error.strerror}", where=str(path), fix=fix
        ) from error
    if len(data) > most_bytes:
        raise IntakeError(f"{path.name} is larger than {most_bytes >> 20} MiB", where=str(path))
    try:
        return parse_object(data)
    except ValueError as error:
        raise IntakeError(f"{path.name} {error}", where=str(path)) from None


def settings(directory: Path) -> dict[str, object]:
    """What config.json and generation_config.json say, of which the latter has the last word.

    Raises IntakeError when either is malformed.
    """
    merged: dict[str, object] = {}
    for path in present(directory, (CONFIG_FILE, "generation_config.json")):
        merged.update({key: value for key, value in read_object(path).items() if value is not None})
    return merged


def _most_tokens(directory: Path) -> int | None:
    """`model_max_length` of the tokenizer's settings; None where it is missing, or stands for no limit."""
    found = present(directory, (TOKENIZER_CONFIG_FILE,))
    value = read_object(found[0]).get("model_max_length") if found else None
    return value if type(value) is int and 0 < value <= MOST_CONTEXT else None


def read_index(directory: Path, layout: WeightLayout = SAFETENSORS) -> dict[str, str] | None:
    """Tensor name → shard of a sharded checkpoint; None where there is one file, which goes first as in
    transformers. Raises IntakeError for a malformed index and for shards that are not files of the directory.
    """
    path = directory / layout.index
    if (directory / layout.single).exists() or not path.exists():
        return None
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise IntakeError("the index has no weight_map", where=str(path))
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not is_shard_name(shard, layout):
            raise IntakeError(
                f"the index puts {name[:SHOWN_CHARACTERS]!r} into {str(shard)[:SHOWN_CHARACTERS]!r}, "
                f"which is not the name of a {layout.suffix} file of this directory",
                where=str(path),
            )
    folded: dict[str, str] = {}
    for shard in weight_map.values():
        if folded.setdefault(shard.lower(), shard) != shard:
            what = f"{folded[shard.lower()]} and {shard} are one file where letter case does not count"
            raise IntakeError(what, where=str(path))
    return weight_map


def is_shard_name(name: str, layout: WeightLayout) -> bool:
    """Whether a shard may be called that: a plain file name, which no system takes for anything else."""
    plain = SHARD_NAME.fullmatch(name) is not None and RESERVED_NAME.fullmatch(name) is None
    return plain and name.endswith(layout.suffix)


def weight_files(
    directory: Path, index: Mapping[str, str] | None, layout: WeightLayout = SAFETENSORS
) -> tuple[Path, ...]:
    """The files of weights of a checkpoint; raises IntakeError where they, or one shard, are missing."""
    if index is None:
        single = directory / layout.single
        if not (single.exists() or single.is_symlink()):
            raise no_weights(directory)
        return (single,)
    shards = tuple(directory / shard for shard in sorted(set(index.values())))
    for shard in shards:
        if not (shard.exists() or shard.is_symlink()):
            where = str(directory / layout.index)
            raise IntakeError(f"the shard {shard.name} is missing", where=where, fix="download it again")
    return shards


def no_weights(directory: Path) -> IntakeError:
    """Why a directory without model.safetensors and without an index cannot be loaded."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    archives = [name for name in names if name.endswith(ARCHIVE_SUFFIXES)]
    tensors = [name for name in names if name.endswith(".safetensors")]
    if "adapter_model.safetensors" in tensors:
        what = "it holds an adapter, not a model"
        fix = "load the base model, and fold the adapter into it with fuse.lora"
    elif tensors:
        what = f"it holds {tensors[0]}, but neither {WEIGHTS_FILE} nor {INDEX_FILE}"
        fix = f"rename a single file to {WEIGHTS_FILE}; download the index of a sharded checkpoint"
    elif pickles:
        what = f"its weights are pickled ({pickles[0]}), and loading a pickle runs whatever code it holds"
        fix = "load it with transformers, if you trust it, and save_pretrained() it, which writes safetensors"
        if PICKLED.is_in(directory):
            fix = f"if you trust it, add --allow-pickle, which takes tensors alone from it; or {fix}"
    elif archives:
        what, fix = f"it holds no weights, only the archive {archives[0]}", "unpack the archive"
    else:
        what = f"it holds no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE}"
        fix = "give the directory that save_pretrained() wrote"
    return IntakeError(what, where=str(directory), fix=fix)
