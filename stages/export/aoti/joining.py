"""Maps that read the same input as one: query, key and value; gate and up. Fewer and larger products.

What is joined is stored joined and nowhere else, so no weight is held twice. A row of a weight is a feature
of the output whatever it is stored as, so rows of codes are joined as rows of numbers are, scales and all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...model.families import Architecture, FeedForward, Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...model.families import Layer
    from .packing import Packed


@dataclass(frozen=True)
class Joined:
    """model: the network with joined maps.  parts: the name of a joined map → those that it is made of."""

    model: Architecture
    parts: Mapping[str, tuple[Linear, ...]]

    @staticmethod
    def of(model: Architecture, packed: Mapping[str, Packed]) -> Joined:
        """Joins what can be: maps that are not factored, stored alike, all with a bias or none.

        packed: how quantized weights are stored.
        """
        parts: dict[str, tuple[Linear, ...]] = {}
        layers = tuple(_layer(layer, packed, parts) for layer in model.layers)
        return Joined(replace(model, layers=layers), parts)


def _layer(layer: Layer, packed: Mapping[str, Packed], parts: dict[str, tuple[Linear, ...]]) -> Layer:
    attention, form = layer.attention, layer.feed_forward
    if len(attention.inputs) > 1 and _alike(attention.inputs, packed):
        whole = _join(attention.inputs, "qkv_proj", parts)
        layer = replace(layer, attention=replace(attention, inputs=(whole,)))
    gate = form.gate if isinstance(form, FeedForward) else None
    if isinstance(form, FeedForward) and gate is not None and _alike((gate, form.up), packed):
        whole = _join((gate, form.up), "gate_up_proj", parts)
        layer = replace(layer, feed_forward=replace(form, gate=None, up=whole, gate_in_up=True))
    return layer


def _alike(linears: Sequence[Linear], packed: Mapping[str, Packed]) -> bool:
    first = linears[0]
    stored = {_stored(packed.get(each.name)) for each in linears}
    biased = {each.bias is None for each in linears}
    same_input = {each.in_features for each in linears} == {first.in_features}
    return same_input and len(stored) == len(biased) == 1 and all(each.first is None for each in linears)


def _stored(packed: Packed | None) -> tuple[int, bool] | None:
    return None if packed is None else (packed.group, packed.in_halves)


def _join(linears: tuple[Linear, ...], role: str, parts: dict[str, tuple[Linear, ...]]) -> Linear:
    name = "+".join(each.name for each in linears)
    parts[name] = linears
    biases = [each.bias for each in linears if each.bias is not None]
    return replace(
        linears[0], name=name, role=role, out_features=sum(each.out_features for each in linears),
        bias="+".join(biases) or None, stored_in_out=False,
    )  # fmt: skip
