"""A config.json read with care: every value typed, every fault named with its key and its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....artifacts.errors import IntakeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from .architecture import Activation

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


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

    def divided(self, key: str, by: str) -> int:
        """The whole number of ``key`` over that of ``by``, which must divide it."""
        value, parts = self.integer(key), self.integer(by)
        if value % parts:
            raise self.error(key, f"is not a multiple of {by}, {parts}")
        return value // parts

    def number(self, key: str, default: float) -> float:
        """A finite number above zero."""
        value = self.config.get(key)
        return default if value is None else self.positive(key, value)

    def positive(self, key: str, value: object) -> float:
        """``value``, which ``key`` gave, as a finite number above zero."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise IntakeError(f"{key}: {value!r} is not a number above zero", where=self.where)
        return float(value)

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

    def holds(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of that name, as it is or as the codes of a quantized one."""
        return not self.tensor_names.isdisjoint((name, f"{name}.codes"))

    def windows(self, layers: int, sliding: Callable[[int], bool]) -> tuple[int | None, ...]:
        """Each layer's window: `sliding_window` where `layer_types`, or else ``sliding``, says so.

        Some configs say 0 for no window.
        """
        width = self.integer("sliding_window") if self.config.get("sliding_window") else None
        kinds = self.config.get("layer_types")
        if kinds is None:
            return tuple(width if width and sliding(index) else None for index in range(layers))
        allowed = {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != layers or not allowed.issuperset(kinds):
            raise self.error("layer_types", f"does not give each of {layers} layers one of {sorted(allowed)}")
        if "sliding_attention" in kinds and width is None:
            raise self.error("sliding_window", "is needed by layer_types")
        return tuple(width if kind == "sliding_attention" else None for kind in kinds)
