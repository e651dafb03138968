"""Which weights a method quantizes, and to what format: the parameters that all methods share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RecipeError, nearest
from ...artifacts.schema import param
from ..model.named import matching
from ..model.quantized import WeightFormat, WeightSpec

if TYPE_CHECKING:
    from ..model.families import Architecture

BITS = (2, 3, 4, 8)
GROUP_SIZES = (0, 16, 32, 64, 128, 256)
FLOAT_BITS = 16
LIKE_OTHERS = -1
OVERRIDABLE: Mapping[str, tuple[object, ...]] = {
    "bits": (*BITS, FLOAT_BITS),
    "group_size": GROUP_SIZES,
    "sym": (True, False),
}


@dataclass(frozen=True)
class WeightParams:
    """Parameters of every method that stores weights as integers with scales."""

    bits: int = param(4, choices=BITS, doc="bits a weight; 4 saves most for little loss")
    group_size: int = param(
        32,
        choices=GROUP_SIZES,
        doc="input features that share a scale, 0 for a whole row; 32 suits 4 bits without calibration",
    )
    sym: bool = param(True, doc="zero point fixed at 2^(bits-1); symmetric is what every runtime takes")
    lm_head_bits: int = param(
        8,
        choices=(*BITS, FLOAT_BITS),
        doc="bits of the output head, 16 leaves it; 8 since logits are sensitive",
    )
    embedding_bits: int = param(
        8,
        choices=(4, 8, FLOAT_BITS),
        doc="bits of the token embedding, 16 leaves it; 8 costs nothing",
    )
    head_group_size: int = param(
        LIKE_OTHERS,
        choices=(LIKE_OTHERS, *GROUP_SIZES),
        doc="input features that share a scale in the output head and the embedding; -1 is group_size, 0 a "
        "whole row, the one form of 8 bits that XNNPACK on phones takes",
    )
    ignore: tuple[str, ...] = param((), doc="patterns of weights to leave, such as *.down_proj.weight")
    overrides: Mapping[str, Mapping[str, object]] | None = param(
        None,
        doc="pattern of weights → bits, group_size or sym for them, such as "
        '{"*.down_proj.weight": {bits: 8}}; the last pattern that matches has the last word',
    )

    def choice(self) -> Choice:
        """What the parameters ask for."""
        size = self.group_size if self.head_group_size == LIKE_OTHERS else self.head_group_size

        def form(bits: int) -> WeightFormat | None:
            return None if bits == FLOAT_BITS else WeightFormat(bits, size, self.sym)

        return Choice(
            linear=WeightFormat(self.bits, self.group_size, self.sym),
            head=form(self.lm_head_bits),
            embedding=form(self.embedding_bits),
            ignore=self.ignore,
            overrides=self.overrides or {},
        )


@dataclass(frozen=True)
class Choice:
    """What a stage wants: the format of linear layers, of the output head and of the embedding.

    ``head`` and ``embedding`` None leave that weight in floating point.
    """

    linear: WeightFormat
    head: WeightFormat | None
    embedding: WeightFormat | None
    ignore: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def formats(params: WeightParams, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored."""
    return choose(model, params.choice())


def choose(model: Architecture, choice: Choice) -> dict[str, WeightSpec]:
    """The weights to quantize, by tensor name.

    A head that is tied to the embedding is the same bytes, so it takes the wider of the two formats.
    Raises RecipeError for a pattern that matches no weight, and for an override of what cannot be overridden.
    """
    specs: dict[str, WeightSpec] = {}
    embedding = choice.embedding
    if model.tied:
        embedding = wider(choice.embedding, choice.head)
    if embedding is not None:
        for name in model.embeddings:
            specs[name] = WeightSpec(embedding, (model.vocabulary, model.embedding_width))
    for linear in model.linears:
        form = choice.head if linear.name == model.lm_head else choice.linear
        if form is not None:
            shape = (linear.out_features, linear.in_features)
            specs[linear.name] = WeightSpec(form, shape, linear.stored_in_out)
    for pattern, changes in choice.overrides.items():
        _override(specs, pattern, changes)
    for pattern in choice.ignore:
        for name in matching(specs, pattern, "quantize.ignore"):
            del specs[name]
    return specs


def wider(embedding: WeightFormat | None, head: WeightFormat | None) -> WeightFormat | None:
    """The format with more bits, the head's when they are equal; None, floating point, is the widest."""
    if embedding is None or head is None:
        return None
    return embedding if embedding.bits > head.bits else head


def _override(specs: dict[str, WeightSpec], pattern: str, changes: Mapping[str, object]) -> None:
    for key, value in changes.items():
        label = f"quantize.overrides.{pattern}.{key}"
        if key not in OVERRIDABLE:
            guess = nearest(key, OVERRIDABLE)
            fix = f"did you mean {guess}?" if guess else f"write {', '.join(OVERRIDABLE)}"
            raise RecipeError(f"{label} is not a known name", fix=fix)
        if value not in OVERRIDABLE[key] or isinstance(value, bool) != (key == "sym"):
            listed = ", ".join(str(each) for each in OVERRIDABLE[key])
            raise RecipeError(f"{label}: {value!r} is not one of {listed}")
    for name in matching(specs, pattern, "quantize.overrides"):
        if changes.get("bits") == FLOAT_BITS:
            del specs[name]
        else:
            changed: Any = dict(changes)
            specs[name] = replace(specs[name], format=replace(specs[name].format, **changed))
