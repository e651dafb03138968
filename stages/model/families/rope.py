"""Rotary embeddings read from a config.json, under today's key `rope_parameters` and the older ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .architecture import Rope

if TYPE_CHECKING:
    from .config import ConfigReader

LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# Early Phi-3 configs use the other two for what is called longrope today.
LONGROPE_NAMES = ("longrope", "su", "yarn")


@dataclass(frozen=True)
class RopeKeys:
    """What a family calls its rotary parameters outside of `rope_parameters`, and their defaults.

    fraction: the key of the share of a head that is rotated; default_fraction None: this family rotates all
    of it.  scaling: the older key of the scaling, None where it never applied.  layers: the part of
    `rope_parameters` that is meant, in families that have one for each kind of layer.
    longrope: the family scales by a factor for each frequency.
    """

    theta: str = "rope_theta"
    default_theta: float = 10000.0
    fraction: str = "partial_rotary_factor"
    default_fraction: float | None = None
    scaling: str | None = "rope_scaling"
    layers: str | None = None
    longrope: bool = False


USUAL = RopeKeys()


def rope(reader: ConfigReader, head_dim: int, keys: RopeKeys = USUAL) -> Rope:
    """The rotary embedding of a config; raises IntakeError for a kind or a value that is not computed."""
    name, given = _given(reader, keys)
    theta = reader.positive(name, given.get("rope_theta", reader.config.get(keys.theta, keys.default_theta)))
    dim = _rotated(reader, head_dim, keys, name, given)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return Rope(theta, dim)
    if keys.longrope:
        if kind in LONGROPE_NAMES:
            return _longrope(reader, theta, dim, name, given)
        raise reader.error(name, "is of a type that is not supported", "use default or longrope")
    if kind == "linear":
        return Rope(theta, dim, "linear", _numbers(reader, name, given, ("factor",)))
    if kind == "llama3":
        return Rope(theta, dim, "llama3", _numbers(reader, name, given, LLAMA3_KEYS))
    raise reader.error(name, "is of a type that is not supported", "use default, linear or llama3")


def _given(reader: ConfigReader, keys: RopeKeys) -> tuple[str, Mapping[str, object]]:
    """The key that holds the parameters, for messages, and what it holds; empty where there is none."""
    name = "rope_parameters" if reader.config.get("rope_parameters") else keys.scaling
    if name is None:
        return keys.theta, {}
    given = reader.config.get(name) or {}
    if not isinstance(given, Mapping):
        raise reader.error(name, "is not a mapping")
    if keys.layers is None or name != "rope_parameters":
        return name, given
    part = given.get(keys.layers) or {}
    if not isinstance(part, Mapping) or not all(isinstance(each, Mapping) for each in given.values() if each):
        raise reader.error(name, "does not hold a mapping for each kind of layer")
    return name, part


def _rotated(
    reader: ConfigReader, head_dim: int, keys: RopeKeys, name: str, given: Mapping[str, object]
) -> int:
    if keys.default_fraction is None:
        if given.get("partial_rotary_factor", 1.0) != 1.0:
            raise reader.error(name, "rotates a part of each head, which is not supported for this family")
        return head_dim
    older = reader.config.get(keys.fraction)
    default = keys.default_fraction if older is None else older
    fraction = reader.positive(keys.fraction, given.get("partial_rotary_factor", default))
    dim = int(head_dim * fraction)
    if fraction > 1 or dim < 2 or dim % 2:
        raise reader.error(
            name, f"rotates {fraction} of each head's {head_dim} features, not an even number of them"
        )
    return dim


def _longrope(reader: ConfigReader, theta: float, dim: int, name: str, given: Mapping[str, object]) -> Rope:
    """LongRoPE (arXiv:2402.13753) as Phi-3 has it; its section 3.2 gives the usual attention factor."""
    context = reader.integer("max_position_embeddings")
    original = reader.positive(
        "original_max_position_embeddings",
        reader.config.get("original_max_position_embeddings")
        or given.get("original_max_position_embeddings", context),
    )
    factor = reader.positive(f"{name}.factor", given.get("factor") or context / original)
    grown = math.sqrt(1 + math.log(factor) / math.log(original)) if min(factor, original) > 1 else 1.0
    return Rope(
        theta,
        dim,
        "longrope",
        {
            "original_max_position_embeddings": original,
            "attention_factor": reader.positive(
                f"{name}.attention_factor", given.get("attention_factor") or grown
            ),
        },
        tuple(_factors(reader, name, given, key, dim // 2) for key in ("short_factor", "long_factor")),
    )


def _factors(
    reader: ConfigReader, name: str, given: Mapping[str, object], key: str, count: int
) -> tuple[float, ...]:
    values = given.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise reader.error(name, f"does not have {count} numbers in {key}, one for each frequency")
    return tuple(reader.positive(f"{name}.{key}", value) for value in values)


def _numbers(
    reader: ConfigReader, name: str, given: Mapping[str, object], keys: tuple[str, ...]
) -> dict[str, float]:
    missing = [key for key in keys if key not in given]
    if missing:
        raise reader.error(name, f"lacks {', '.join(missing)}")
    return {key: reader.positive(f"{name}.{key}", given[key]) for key in keys}
