"""A config.json read with care: every value typed, every fault named with its key and its file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ....artifacts.errors import IntakeError
from .architecture import Activation, Rope

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


class ConfigReader:
    """A mapping with its place, and the names of the tensors beside it (empty when they are not known)."""

    def __init__(self, config: Mapping[str, object], where: str, tensor_names: Collection[str] = ()) -> None:
        self.config = config
        self.where = where
        self.tensor_names = frozenset(tensor_names)

    def error(self, key: str, problem: str, fix: str | None = None) -> IntakeError:
        """The error for a key whose value is ``problem``."""
        return IntakeError(f"{key}: {self.config.get(key)!r} {problem}", where=self.where, fix=fix)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number above zero; without a default the key must be there."""
        value = self.config.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise IntakeError(f"{key} is missing", where=self.where)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, "is not a whole number above zero")
        return value

    def token(self, key: str, default: int | None = None) -> int:
        """A token's id, a whole number from zero; without a default the key must be there."""
        value = self.config.get(key)
        value = default if value is None else value
        if value is None:
            raise IntakeError(f"{key} is missing", where=self.where)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, "is not a token's id")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number above zero."""
        value = self.config.get(key)
        return default if value is None else self._positive(key, value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "is not true or false")
        return value

    def activation(self, key: str, default: str) -> Activation:
        """The activation function, under the names that transformers gives it."""
        value = self.config.get(key) or default
        found = ACTIVATIONS.get(value) if isinstance(value, str) else None
        if found is None:
            raise self.error(key, f"is not one of {', '.join(ACTIVATIONS)}")
        return found

    def check_class(self, accepted: tuple[str, ...]) -> None:
        """Refuses a checkpoint of another head than those in ``accepted`` (`architectures` in the config)."""
        value = self.config.get("architectures") or list(accepted[:1])
        if not isinstance(value, list) or not value or value[0] not in accepted:
            raise self.error("architectures", f"is not one of {', '.join(accepted)}")

    def require(self, key: str, value: object) -> None:
        """Refuses a value other than the only one that this family's graph computes; absent is that one."""
        if self.config.get(key, value) != value:
            raise self.error(key, f"is not supported, only {value!r} is")

    def prefix(self, usual: str) -> str:
        """``usual``, or the empty prefix where the checkpoint's tensors are known and none has it."""
        bare = self.tensor_names and not any(name.startswith(usual) for name in self.tensor_names)
        return "" if bare else usual

    def rope(self, head_dim: int) -> Rope:
        """Rotary parameters, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`."""
        key = "rope_parameters" if self.config.get("rope_parameters") else "rope_scaling"
        given = self.config.get(key) or {}
        if not isinstance(given, Mapping):
            raise self.error(key, "is not a mapping")
        theta = self._positive(key, given.get("rope_theta", self.config.get("rope_theta", 10000.0)))
        if given.get("partial_rotary_factor", 1.0) != 1.0:
            raise self.error(key, "rotates a part of each head, which is not supported for this family")
        kind = given.get("rope_type", given.get("type", "default"))
        if kind == "default":
            return Rope(theta, head_dim)
        if kind == "linear":
            return Rope(theta, head_dim, "linear", self._numbers(key, given, ("factor",)))
        if kind == "llama3":
            return Rope(theta, head_dim, "llama3", self._numbers(key, given, LLAMA3_KEYS))
        raise self.error(key, "is of a type that is not supported", "use default, linear or llama3")

    def windows(self, layers: int, sliding: Callable[[int], bool]) -> tuple[int | None, ...]:
        """Each layer's window: `sliding_window` where `layer_types`, or else ``sliding``, says so."""
        width = None if self.config.get("sliding_window") is None else self.integer("sliding_window")
        kinds = self.config.get("layer_types")
        if kinds is None:
            return tuple(width if width and sliding(index) else None for index in range(layers))
        allowed = {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != layers or not allowed.issuperset(kinds):
            raise self.error("layer_types", f"does not give each of {layers} layers one of {sorted(allowed)}")
        if "sliding_attention" in kinds and width is None:
            raise self.error("sliding_window", "is needed by layer_types")
        return tuple(width if kind == "sliding_attention" else None for kind in kinds)

    def _numbers(self, key: str, given: Mapping[str, object], names: tuple[str, ...]) -> dict[str, float]:
        missing = [name for name in names if name not in given]
        if missing:
            raise self.error(key, f"lacks {', '.join(missing)}")
        return {name: self._positive(f"{key}.{name}", given[name]) for name in names}

    def _positive(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise IntakeError(f"{key}: {value!r} is not a number above zero", where=self.where)
        return float(value)
