"""Which layers share, and which of their modules correspond to one another."""

from __future__ import annotations

import fnmatch
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..model.families import Linear, Mixture, Norm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..model.families import Architecture, Layer

ALL, ATTENTION, FEED_FORWARD = "all", "attention", "mlp"
FIRST, MEAN = "first", "mean"
DECODER, ENCODER = "decoder", "encoder"


@dataclass(frozen=True)
class ShareParams:
    """Parameters of `share.layers`."""

    groups: tuple[tuple[int, ...], ...] = param(
        (), doc="groups of layers that use the same weights, such as [[1, 2], [3, 4]], counted from 0"
    )
    every: int | None = param(
        None,
        minimum=2,
        doc="in their place: so many consecutive layers are a group, from the first on; a rest shares too",
    )
    modules: str = param(
        ALL,
        choices=(ALL, ATTENTION, FEED_FORWARD),
        doc="what is shared: all, norms included as in ALBERT, the maps of attention, or those of the "
        "feed-forward, experts and router included; the others stay each layer's own",
    )
    source: str = param(
        MEAN,
        choices=(MEAN, FIRST),
        doc="what all layers of a group use: the mean of their weights, which is nearest to each of them, or "
        "the weights of its first",
    )
    half: str = param(
        DECODER, choices=(DECODER, ENCODER), doc="whose layers, where a network has an encoder and a decoder"
    )
    ignore: tuple[str, ...] = param(
        (), doc="patterns of tensors that stay each layer's own, such as *.k_proj.weight"
    )

    def __post_init__(self) -> None:
        """Raises RecipeError unless exactly one of groups and every is given."""
        if bool(self.groups) == (self.every is not None):
            what = (
                "share: both groups and every" if self.groups else "share: neither groups nor every is given"
            )
            raise RecipeError(what, fix="write groups: [[1, 2]], or every: 2")


@dataclass(frozen=True)
class Sharing:
    """Modules of one group of layers that correspond to one another; the first one's tensors are all's."""

    modules: tuple[str, ...]


def preflight(params: ShareParams, directories: Mapping[str, Path]) -> None:
    """Raises RecipeError for groups that the network does not have, and patterns that match no tensor."""
    from ..model.checkpoint import Checkpoint

    choose(Checkpoint.open(directories["model"]).architecture, params)


def choose(model: Architecture, params: ShareParams) -> tuple[Sharing, ...]:
    """What is shared, in the order of the groups.

    Raises RecipeError for layers that there are not or that are in two groups, for layers of different
    shapes, and for patterns that match no tensor.
    """
    half = model.encoder if params.half == ENCODER and model.task == "seq2seq-lm" else model
    if half is None or (params.half == ENCODER and half is model and model.task != "encoder"):
        raise RecipeError(f"share.half: a {model.model_type} network has no encoder", fix=f"write {DECODER}")
    layers, found = half.layers, list[Sharing]()
    unused = set(params.ignore)
    for group in _groups(params, len(layers)):
        parts = [tuple(_pieces(layers[index], params.modules)) for index in group]
        for pieces in itertools.zip_longest(*parts):
            _check_alike(group, pieces)
            names = [_weight(piece) for piece in pieces]
            kept = {each for each in params.ignore if any(fnmatch.fnmatch(name, each) for name in names)}
            unused -= kept
            if not kept:
                found.append(Sharing(tuple(name.removesuffix(".weight") for name in names)))
    if unused:
        raise RecipeError(f"share.ignore: {min(unused)!r} matches no tensor of layers that share")
    if not found:
        raise RecipeError("nothing would be shared", fix="ignore less, or drop the share stage")
    return tuple(found)


def _groups(params: ShareParams, layers: int) -> tuple[tuple[int, ...], ...]:
    if params.every is not None:
        starts = range(0, layers, params.every)
        cut = [tuple(range(start, min(start + params.every, layers))) for start in starts]
        return tuple(group for group in cut if len(group) > 1)
    seen: set[int] = set()
    for group in params.groups:
        if len(group) < 2:
            raise RecipeError(f"share.groups: {list(group)} is less than two layers")
        for index in group:
            if not 0 <= index < layers:
                raise RecipeError(f"share.groups: there is no layer {index}, only 0 to {layers - 1}")
            if index in seen:
                raise RecipeError(f"share.groups: layer {index} is named twice")
            seen.add(index)
    return params.groups


def _pieces(layer: Layer, modules: str) -> Iterator[Linear | Norm]:
    """The maps and norms of a layer that are shared, in an order that is the same for all layers."""
    attentions = [each for each in (layer.attention, layer.cross_attention) if each is not None]
    if modules in (ALL, ATTENTION):
        for attention in attentions:
            yield from (*attention.inputs, attention.output)
            yield from (norm for norm in (attention.query_norm, attention.key_norm) if norm)
    if modules in (ALL, FEED_FORWARD):
        yield from layer.feed_forward.linears
        if isinstance(layer.feed_forward, Mixture):
            yield from layer.feed_forward.gates
    if modules == ALL:
        norms = (
            layer.attention_norm, layer.feed_forward_norm, layer.cross_attention_norm,
            layer.attention_post_norm, layer.feed_forward_post_norm,
        )  # fmt: skip
        # A parallel layer may have one norm for both of its halves.
        yield from dict.fromkeys(norm for norm in norms if norm)


def _weight(piece: Linear | Norm) -> str:
    return piece.name if isinstance(piece, Linear) else piece.weight


def _form(piece: Linear | Norm | None) -> object:
    if isinstance(piece, Linear):
        return piece.role, piece.out_features, piece.in_features, piece.bias is None
    return type(piece)


def _check_alike(group: Sequence[int], pieces: Sequence[Linear | Norm | None]) -> None:
    if len(set(map(_form, pieces))) > 1:
        named = next(_weight(piece) for piece in pieces if piece)
        raise RecipeError(
            f"layers {', '.join(map(str, group))} differ in shape, as at {named}",
            fix="put layers of one shape into a group",
        )
