"""adapter_config.json, typed: what changes the arithmetic is honoured or refused by its key, never skipped.

The keys are those of PEFT's LoraConfig up to version 0.21. LoRA: arXiv:2106.09685; rsLoRA: arXiv:2312.03732;
DoRA: arXiv:2402.09353.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....artifacts.errors import IntakeError
from ..families import ConfigReader

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_RANK, DEFAULT_ALPHA = 8, 8.0
# What changes what an adapter computes in ways that no weight can hold, or that are not computed here.
REFUSED: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts behind certain tokens alone, which no weight can hold",
    "arrow_config": "it chooses among adapters token by token, which no weight can hold",
    "kasa_config": "its singular values are not folded here",
    "layer_replication": "it is of a network with layers repeated; repeat them by a merge first",
    "megatron_config": "it is of layers that are split over processes",
    "monteclora_config": "its weights are drawn at random",
    "target_parameters": "it changes parameters that are no module's weight",
    "trainable_token_indices": "it replaces rows of the embedding",
    "use_bdlora": "its matrices are block-diagonal",
    "use_qalora": "it pools the inputs of its first map",
    "velora_config": "it is not known to leave the forward pass alone",
}
# What says how it was trained or found, and changes nothing that is computed from its tensors.
INERT = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
})  # fmt: skip
HONOURED = frozenset({
    "alpha_pattern", "bias", "ensure_weight_tying", "fan_in_fan_out", "init_lora_weights",
    "layers_to_transform", "lora_alpha", "lora_bias", "modules_to_save", "peft_type", "r", "rank_pattern",
    "target_modules", "use_dora", "use_rslora",
})  # fmt: skip
# Ways to begin that leave the base as it is; of the others, its adapter is only right on a changed base.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
BIASES = ("none", "all", "lora_only")
# A pattern is a program: no group is repeated, and few parts are, so that matching a name ends soon.
PATTERN = re.compile(r"(?:[\w.|^$)-]|\\[.dw]|\[[\w-]+\]|\((?:\?:)?|(?<=[^)(|^])[*+?])*")
MOST_REPEATS, MOST_CHARACTERS = 2, 200


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter's config says of its arithmetic.

    rank, alpha: of modules that no pattern names.  ranks, alphas: pattern → value; the first that matches the
    end of a module's name holds.  rank_stabilized: the scale is alpha / √rank in place of alpha / rank.
    decomposed: DoRA.  fan_in_fan_out: weights are stored as [in, out].  targets: module names or their ends,
    one pattern, or None.  layers: the only ones that it acts in.  saved: modules that are stored whole.
    biases: `none`, or which biases of the base are stored too.  has_bias: the second map of a pair adds one.
    keeps_tie: embedding and head stay one, with the same change.
    """

    rank: int = DEFAULT_RANK
    alpha: float = DEFAULT_ALPHA
    ranks: Mapping[str, int] | None = None
    alphas: Mapping[str, float] | None = None
    rank_stabilized: bool = False
    decomposed: bool = False
    fan_in_fan_out: bool = False
    targets: tuple[str, ...] | str | None = None
    layers: tuple[int, ...] | None = None
    saved: tuple[str, ...] = ()
    biases: str = "none"
    has_bias: bool = False
    keeps_tie: bool = False

    def rank_of(self, module: str) -> int:
        """The rank of a module's pair."""
        return next((rank for key, rank in (self.ranks or {}).items() if matches(key, module)), self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """What B·A of a module is multiplied by."""
        alpha = next((each for key, each in (self.alphas or {}).items() if matches(key, module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern of PEFT's names a module: its whole name, or what stands behind a dot in it."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def read_config(config: Mapping[str, object], where: str) -> AdapterConfig:
    """The config of an adapter; raises IntakeError that names the key for whatever cannot be honoured."""
    reader = ConfigReader(config, where)
    if config.get("peft_type") != "LORA":
        raise reader.error("peft_type", "is not LORA", "adapters of other kinds are not folded")
    for key, reason in REFUSED.items():
        if config.get(key):
            raise reader.error(key, f"cannot be honoured: {reason}")
    for key in sorted(set(config) - HONOURED - INERT - set(REFUSED)):
        if config[key]:
            raise reader.error(key, "is a key that is not known, so what it does cannot be honoured")
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        fix = "save it with path_initial_model_for_weight_conversion, which makes a plain adapter of it"
        raise reader.error("init_lora_weights", "changes the base before the adapter is trained", fix)
    if config.get("bias", "none") not in BIASES:
        raise reader.error("bias", f"is not one of {', '.join(BIASES)}")
    targets = config.get("target_modules")
    return AdapterConfig(
        rank=reader.integer("r", DEFAULT_RANK),
        alpha=reader.number("lora_alpha", DEFAULT_ALPHA),
        ranks={key: _rank(reader, value) for key, value in _patterns(reader, "rank_pattern")},
        alphas={
            key: reader.positive("alpha_pattern", value) for key, value in _patterns(reader, "alpha_pattern")
        },
        rank_stabilized=reader.flag("use_rslora", False),
        decomposed=reader.flag("use_dora", False),
        fan_in_fan_out=reader.flag("fan_in_fan_out", False),
        targets=targets if isinstance(targets, str) else _names(reader, "target_modules") or None,
        layers=_layers(reader),
        saved=_names(reader, "modules_to_save"),
        biases=str(config.get("bias", "none")),
        has_bias=reader.flag("lora_bias", False),
        keeps_tie=reader.flag("ensure_weight_tying", False),
    )


def config_json(config: AdapterConfig, task: str | None) -> dict[str, object]:
    """adapter_config.json as PEFT reads it; task: PEFT's name of it, such as CAUSAL_LM."""
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "init_lora_weights": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "rank_pattern": dict(config.ranks or {}),
        "alpha_pattern": dict(config.alphas or {}),
        "use_rslora": config.rank_stabilized,
        "use_dora": config.decomposed,
        "fan_in_fan_out": config.fan_in_fan_out,
        "target_modules": list(config.targets) if isinstance(config.targets, tuple) else config.targets,
        "layers_to_transform": list(config.layers) if config.layers else None,
        "modules_to_save": list(config.saved) or None,
        "bias": config.biases,
        "lora_bias": config.has_bias,
        "ensure_weight_tying": config.keeps_tie,
    }


def _rank(reader: ConfigReader, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise reader.error("rank_pattern", "has ranks that are not whole numbers above zero")
    return value


def _patterns(reader: ConfigReader, key: str) -> Iterable[tuple[str, object]]:
    """The entries of a mapping from patterns; each pattern is one that can be matched in a short time."""
    value = reader.config.get(key) or {}
    if not isinstance(value, Mapping):
        raise reader.error(key, "is not a mapping from names of modules")
    for pattern in value:
        repeats = sum(pattern.count(sign) for sign in "*+?") - pattern.count("(?:")
        if (
            len(pattern) > MOST_CHARACTERS
            or repeats > MOST_REPEATS
            or PATTERN.fullmatch(pattern) is None
            or not _compiles(pattern)
        ):
            what = f"{key}: {pattern[:MOST_CHARACTERS]!r} is not a name of modules, or a short pattern of one"
            raise IntakeError(what, where=reader.where, fix="write the names of the modules out")
    return value.items()


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _names(reader: ConfigReader, key: str) -> tuple[str, ...]:
    value = reader.config.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise reader.error(key, "is not a list of names of modules")
    return tuple(value)


def _layers(reader: ConfigReader) -> tuple[int, ...] | None:
    value = reader.config.get("layers_to_transform")
    listed = [value] if isinstance(value, int) else value
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(type(each) is int and each >= 0 for each in listed):
        raise reader.error("layers_to_transform", "is not a layer's number, or a list of them")
    return tuple(listed)
