"""Which tensors of a checkpoint belong to which layer of which stack, told from their names.

A stack is a run of layers, 0, 1 ... n-1: the first number in a tensor's name is its layer, what stands before
it names the stack (`model.layers.`, `transformer.h.`, `encoder.block.`), what follows is its place in the
layer. All else is outside: embeddings and what comes before the layers, norms, heads and what comes behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .families import Architecture

DEFAULT = "default"
_LAYER = re.compile(r"(.*?(?:^|\.))(\d+)\.(.+)")
# What every stack may be called, which tells none from another.
_PLAIN = frozenset(("model", "transformer", "layers", "layer", "blocks", "block", "h", "text_model"))
# Names of what follows the layers, where no family says it.
_BEHIND = re.compile(
    r"(^|[._])(lm_head|head|embed_out|ln_f|final\w*|norm|pooler|classifier|score|cls|output)[._]"
)
_EMBEDDING = re.compile(r"embed|wte|wpe")


@dataclass(frozen=True)
class Stack:
    """prefix: of its tensors' names, with the dot.  layers: of each, the places that have a tensor."""

    prefix: str
    layers: tuple[tuple[str, ...], ...]

    def tensor(self, layer: int, place: str) -> str:
        """The name of a tensor."""
        return f"{self.prefix}{layer}.{place}"


@dataclass(frozen=True)
class Layout:
    """stacks: by the name that a recipe's `modules` gives them.  before, behind: tensors outside of them."""

    stacks: Mapping[str, Stack]
    before: tuple[str, ...]
    behind: tuple[str, ...]

    def stack_of(self, name: str) -> str | None:
        """The stack whose part of the network a tensor outside the layers belongs to; None for no certain."""
        owners = {
            stack: root
            for stack, each in self.stacks.items()
            if (root := each.prefix.rstrip(".").rpartition(".")[0]) and name.startswith(f"{root}.")
        }
        return max(owners, key=lambda stack: len(owners[stack])) if owners else None


def layout_of(names: Iterable[str], model: Architecture | None, head: str | None = None) -> Layout:
    """The layout of a checkpoint's tensors.

    model: what they make, where its family is known.  head: an output head of its own.
    """
    groups: dict[str, dict[int, list[str]]] = {}
    names = sorted(names)
    for name in names:
        if match := _LAYER.fullmatch(name):
            groups.setdefault(match[1], {}).setdefault(int(match[2]), []).append(match[3])
    stacks = [
        Stack(prefix, tuple(tuple(layers[index]) for index in range(len(layers))))
        for prefix, layers in groups.items()
        if sorted(layers) == list(range(len(layers)))
    ]
    inside = tuple(stack.prefix for stack in stacks)
    outside = [name for name in names if not _is_inside(name, inside)]
    behind = _known_behind(model) if model else {name for name in outside if _is_behind(name)}
    behind |= {head} if head else set()
    return Layout(
        _named(stacks),
        tuple(name for name in outside if name not in behind),
        tuple(name for name in outside if name in behind),
    )


def _is_inside(name: str, prefixes: tuple[str, ...]) -> bool:
    match = _LAYER.fullmatch(name)
    return match is not None and match[1] in prefixes


def _is_behind(name: str) -> bool:
    return _BEHIND.search(name) is not None and _EMBEDDING.search(name) is None


def _known_behind(model: Architecture) -> set[str]:
    """The tensors that an architecture has behind its layers."""
    found: set[str | None] = {model.head_bias}
    for half in (model, model.encoder):
        if half is not None and half.final_norm is not None:
            found |= {half.final_norm.weight, half.final_norm.bias}
    for linear in (model.embedding_out, model.head):
        if linear is not None:
            found |= {linear.name, linear.bias}
    return {name for name in found if name is not None}


def _named(stacks: list[Stack]) -> dict[str, Stack]:
    """Each stack's shortest telling name: `default` for the only one, else `encoder`, `vision_model` ..."""
    if len(stacks) == 1:
        return {DEFAULT: stacks[0]}
    telling = [
        ".".join(part for part in stack.prefix.rstrip(".").split(".") if part not in _PLAIN) or DEFAULT
        for stack in stacks
    ]
    distinct = len(set(telling)) == len(stacks)
    return {
        name if distinct else each.prefix.rstrip("."): each
        for name, each in zip(telling, stacks, strict=True)
    }
