"""An adapter directory, opened: which modules have low-rank pairs, and which tensors are stored whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....artifacts.errors import IntakeError
from ....artifacts.tensors import TensorSource
from ..checkpoint import read_object
from ..dtypes import NAMES, main_dtype
from .config import AdapterConfig, read_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ....artifacts.tensor_header import TensorInfo

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# What PEFT puts before a module's name, and after it where the base's own weight is stored beside a pair.
PREFIX = "base_model.model."
WRAPPED = ".base_layer."
# What a pair's tensors are called, behind the module; older versions say `.weight` behind the magnitudes.
PARTS: Mapping[str, str] = {
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_B.bias": "bias",
    "lora_embedding_A": "down", "lora_embedding_B": "up",
    "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip
# Of a module's name; the longest of today's models have about 80.
MOST_CHARACTERS = 200


@dataclass(frozen=True)
class LowRank:
    """What is added to a module's weight: scale · up · down.

    down: tensor name of A [rank, in].  up: of B [out, rank].  magnitude: of DoRA's norms [out].  bias: of
    what is added to the module's bias, times the scale, [out].  is_embedding: the module looks rows up, so
    that its weight is [in, out].
    """

    module: str
    down: str
    up: str
    rank: int
    in_features: int
    out_features: int
    scale: float
    magnitude: str | None = None
    bias: str | None = None
    is_embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. pairs: by module.  saved: tensor of the base → the one stored in its place."""

    directory: Path
    config: AdapterConfig
    tensors: TensorSource
    pairs: Mapping[str, LowRank]
    saved: Mapping[str, str]

    @staticmethod
    def open(directory: Path) -> Adapter:
        """Opens a directory of adapter_config.json and adapter_model.safetensors, by headers alone.

        Raises IntakeError for a missing or malformed file, a config that cannot be honoured, and tensors that
        are not what the config says: see :func:`of_tensors`.
        """
        config = read_config(read_object(directory / CONFIG_FILE), str(directory / CONFIG_FILE))
        return of_tensors(directory, config, TensorSource.open([directory / WEIGHTS_FILE]))

    def describe(self) -> dict[str, object]:
        """What it is, by its files alone: the facts of the artifact."""
        infos = [self.tensors.info(name) for name in self.tensors.names()]
        kind = "rslora" if self.config.rank_stabilized else "lora"
        return {
            "kind": "dora" if self.config.decomposed else kind,
            "ranks": sorted({pair.rank for pair in self.pairs.values()}),
            "modules": len(self.pairs),
            "saved_tensors": len(self.saved),
            "parameters": sum(info.count for info in infos),
            "weight_bytes": sum(info.nbytes for info in infos),
            "dtype": main_dtype(infos),
        }


def of_tensors(directory: Path, config: AdapterConfig, tensors: TensorSource) -> Adapter:
    """An adapter of tensors of which headers are known.

    Raises IntakeError for tensors that belong to no module, are not floating-point or lack their other half,
    for ranks that the config does not give, and for magnitudes or biases without or against the config.
    """
    where = str(directory)
    parts: dict[str, dict[str, str]] = {}
    saved: dict[str, str] = {}
    for name in tensors.names():
        info = tensors.info(name)
        if info.dtype not in NAMES:
            raise IntakeError(f"{name} is {info.dtype}, not floating-point", where=where)
        if not name.startswith(PREFIX):
            fix = f"save it with PEFT's save_pretrained(), which writes {PREFIX} before every name"
            raise IntakeError(f"{name} is not the name of an adapter's tensor", where=where, fix=fix)
        module, part = _split(name.removeprefix(PREFIX))
        if len(module) > MOST_CHARACTERS:
            raise IntakeError(f"{name[:MOST_CHARACTERS]!r} ... is no module's name", where=where)
        if part:
            if PARTS[part] in {PARTS[known] for known in parts.get(module, ())}:
                raise IntakeError(f"{module} has its {PARTS[part]} twice", where=where)
            parts.setdefault(module, {})[part] = name
        elif "lora_" in name:
            what = f"{name} is none of a LoRA's tensors"
            raise IntakeError(what, where=where, fix="save it with PEFT's save_pretrained()")
        else:
            saved[module.replace(WRAPPED, ".")] = name
    if not parts:
        raise IntakeError("it holds no low-rank pairs (lora_A, lora_B)", where=where)
    for module in config.saved:
        if not any(f".{name}".rpartition(".")[0].endswith(f".{module}") for name in saved):
            raise IntakeError(f"modules_to_save: it holds no tensors of {module!r}", where=where)
    pairs = {module: _pair(module, found, config, tensors, where) for module, found in parts.items()}
    return Adapter(directory, config, tensors, pairs, saved)


def _split(name: str) -> tuple[str, str]:
    """A name without PEFT's prefix → its module and part; of a tensor stored whole, its name and nothing."""
    for part in PARTS:
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), part
    return name, ""


def _pair(
    module: str, found: Mapping[str, str], config: AdapterConfig, tensors: TensorSource, where: str
) -> LowRank:
    roles = {PARTS[part]: tensors.info(name) for part, name in found.items()}
    missing = [role for role in ("down", "up") if role not in roles]
    kinds = {part.startswith("lora_embedding") for part in found if PARTS[part] in ("down", "up")}
    if missing or len(kinds) > 1:
        what = f"{module} has {', '.join(sorted(found))}, which is no pair of lora_A and lora_B"
        raise IntakeError(what, where=where, fix="the adapter was not saved whole: save it again")
    down, up = roles["down"], roles["up"]
    fault = _fault(module, roles, config)
    if fault is not None:
        raise IntakeError(f"{module}: {fault}", where=where)
    rank, in_features = down.shape
    return LowRank(
        module,
        down.name,
        up.name,
        rank,
        in_features,
        up.shape[0],
        config.scale_of(module, rank),
        _name(roles.get("magnitude")),
        _name(roles.get("bias")),
        kinds == {True},
    )


def _name(info: TensorInfo | None) -> str | None:
    return info.name if info else None


def _fault(module: str, roles: Mapping[str, TensorInfo], config: AdapterConfig) -> str | None:
    """What is wrong with the shapes of a pair, or with its having magnitudes and biases."""
    return next(_faults(module, roles, config), None)


def _faults(module: str, roles: Mapping[str, TensorInfo], config: AdapterConfig) -> Iterator[str]:
    down, up = roles["down"].shape, roles["up"].shape
    if len(down) != 2 or len(up) != 2 or 0 in (*down, *up):
        yield f"A {list(down)} and B {list(up)} are not the matrices of a linear map"
        return
    if down[0] != up[1]:
        yield f"A {list(down)} and B {list(up)} do not fit: their rank is not the same"
    if down[0] != config.rank_of(module):
        yield f"its rank is {down[0]}, where r and rank_pattern give {config.rank_of(module)}"
    for role, key, is_due in (
        ("magnitude", "use_dora", config.decomposed),
        ("bias", "lora_bias", config.has_bias),
    ):
        info = roles.get(role)
        if is_due != (info is not None):
            yield f"it has {'no' if is_due else 'a'} {role}, where {key} is {str(is_due).lower()}"
        elif info is not None and info.shape != up[:1]:
            yield f"its {role} {list(info.shape)} does not fit B {list(up)}"
