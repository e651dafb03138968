"""Which tensors of a base the adapters change: found by PEFT's names, checked before anything is written.

PEFT names a pair by its module; the tensor is that name and `.weight`, with or without the model's own prefix
(`transformer.`, `bert.`), which checkpoints of the same family have or lack. Where embedding and output head
are one tensor, a change of either alone makes the head a tensor of its own: the adapter was trained so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ..model.adapters import Adapter, LowRank
from ..model.checkpoint import CONFIG_FILE, Checkpoint
from ..model.dtypes import NAMES
from ..model.families import Architecture, Linear, architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TIED_KEY = "tie_word_embeddings"
WEIGHT, BIAS = ".weight", ".bias"


@dataclass(frozen=True)
class Use:
    """One adapter of those that are folded. name: the input's, for messages."""

    name: str
    adapter: Adapter
    weight: float


@dataclass(frozen=True)
class Term:
    """What one adapter does to one tensor: first saved, then the pair, then magnitudes.

    saved: the tensor of the adapter that stands in its place.  pair: what is added, of which only the bias
    where the tensor is one (is_bias).
    """

    use: Use
    saved: str | None = None
    pair: LowRank | None = None
    is_bias: bool = False


@dataclass
class Target:
    """A tensor that changes. origin: the tensor of the base that it is made of, another one for a head that
    was tied.  stored_in_out: it is stored as [in, out].
    """

    name: str
    origin: str
    stored_in_out: bool = False
    terms: list[Term] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """Every tensor that changes, by name, and the head that becomes a tensor of its own, if one does."""

    targets: Mapping[str, Target]
    untied_head: str | None = None


def plan(base: Checkpoint, uses: Iterable[Use], note: Callable[[str], None]) -> Plan:
    """What is done to which tensors of ``base``, from headers alone.

    Raises InputError for modules that the base does not have, shapes that do not fit it, biases that it does
    not have, layers that the adapter's config leaves out, and tied embeddings that cannot be separated.
    """
    layout = _Layout.of(base)
    targets: dict[str, Target] = {}
    for use in uses:
        _check_targets(use, layout, note)
        renamed = _renamed(use, layout)
        for module, pair in use.adapter.pairs.items():
            tensor = renamed(f"{module}{WEIGHT}")
            _check_layer(use, layout, tensor)
            target = layout.target(targets, tensor, is_embedding=pair.is_embedding, use=use, pair=pair)
            target.terms.append(Term(use, pair=pair))
            if pair.bias is not None:
                bias = renamed(f"{module}{BIAS}", needed=f"lora_bias: {module} of the base has no bias")
                layout.target(targets, bias).terms.append(Term(use, pair=pair, is_bias=True))
        for tensor, saved in use.adapter.saved.items():
            name = renamed(tensor)
            target = layout.target(targets, name)
            found, shape = use.adapter.tensors.info(saved).shape, layout.shape(name)
            if found != shape:
                raise _misfit(use, f"{tensor} is {list(found)}, and {list(shape)} in the base")
            _put_first(target, use, saved)
    _drop_unchanged(base, targets)
    return _untied(base, layout, targets, note)


@dataclass(frozen=True)
class _Layout:
    """What a base holds. head: the output head that it would have of its own, where it is tied."""

    base: Checkpoint
    model: Architecture | None
    linears: Mapping[str, Linear]
    head: Linear | None

    @staticmethod
    def of(base: Checkpoint) -> _Layout:
        model = base.architecture if base.outline.is_known else None
        linears = {} if model is None else {each.name: each for each in (*model.linears, *model.gates)}
        head = None
        if model is not None and model.tied and model.task == "causal-lm":
            config = {**base.config, TIED_KEY: False}
            where = str(base.directory / CONFIG_FILE)
            head = architecture(config, where, base.tensors.names()).head
        return _Layout(base, model, {**linears, **({head.name: head} if head else {})}, head)

    def holds(self, name: str) -> bool:
        return name in self.base.tensors or (self.head is not None and name == self.head.name)

    def origin(self, name: str) -> str:
        """The tensor of the base that ``name`` is made of."""
        is_head = self.head is not None and name == self.head.name
        return self.model.embedding if is_head and self.model is not None else name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.tensors.info(self.origin(name)).shape

    def target(
        self,
        targets: dict[str, Target],
        name: str,
        *,
        is_embedding: bool = False,
        use: Use | None = None,
        pair: LowRank | None = None,
    ) -> Target:
        """The target called ``name``, made where there is none yet; a pair must fit it."""
        info = self.base.tensors.info(self.origin(name))
        if info.dtype not in NAMES:
            raise InputError(f"{name} of the base is {info.dtype}, which nothing can be added to")
        turned = is_embedding
        if use is not None and pair is not None:
            turned = turned or self._is_turned(name, info.shape, use, pair)
            sizes = (pair.out_features, pair.in_features)
            if info.shape != (sizes[::-1] if turned else sizes):
                raise _misfit(
                    use,
                    f"{pair.module} maps {sizes[1]} features to {sizes[0]}, and {name} of the base is "
                    f"{list(info.shape)}",
                )
        target = targets.setdefault(name, Target(name, self.origin(name), turned))
        target.stored_in_out = target.stored_in_out or turned
        return target

    def _is_turned(self, name: str, shape: tuple[int, ...], use: Use, pair: LowRank) -> bool:
        """Whether a weight is stored as [in, out]: as its family stores it; elsewhere as its shape tells, and
        as fan_in_fan_out says where that leaves both.
        """
        if name in self.linears:
            return self.linears[name].stored_in_out
        straight = shape == (pair.out_features, pair.in_features)
        both = straight and pair.out_features == pair.in_features
        return use.adapter.config.fan_in_fan_out if both else not straight


def _put_first(target: Target, use: Use, saved: str) -> None:
    """Adds what stands in the tensor's place, in one term with the same adapter's pair, if it has one."""
    for index, term in enumerate(target.terms):
        if term.use is use:
            target.terms[index] = replace(term, saved=saved)
            return
    target.terms.append(Term(use, saved))


def _renamed(use: Use, layout: _Layout) -> Callable[..., str]:
    """From an adapter's name of a tensor to the base's, by one change of prefix for all of them.

    The function raises InputError for a tensor that the base does not have; ``needed``: what is missing then.
    """
    wanted = [f"{module}{WEIGHT}" for module in use.adapter.pairs] + list(use.adapter.saved)
    roots = dict.fromkeys(f"{name.partition('.')[0]}." for name in (*wanted, *layout.base.tensors.names()))

    def stripped(root: str) -> Callable[[str], str]:
        return lambda name: name.removeprefix(root)

    def prefixed(root: str) -> Callable[[str], str]:
        return lambda name: root + name

    ways: list[Callable[[str], str]] = [str, *map(stripped, roots), *map(prefixed, roots)]

    def is_held(name: str, way: Callable[[str], str]) -> bool:
        return layout.holds(name) or layout.holds(way(name))

    way = next((way for way in ways if all(is_held(name, way) for name in wanted)), str)

    def rename(name: str, needed: str | None = None) -> str:
        found = name if layout.holds(name) else way(name)
        if not layout.holds(found):
            raise _misfit(use, needed or f"the base has no {name}")
        return found

    return rename


def _misfit(use: Use, what: str) -> InputError:
    return InputError(
        f"{use.name} does not fit the base: {what}",
        where=str(use.adapter.directory),
        fix="fold it into the model that it was trained on",
    )


def _check_layer(use: Use, layout: _Layout, tensor: str) -> None:
    """Raises InputError for a tensor in a layer that the adapter's config says it does not act in."""
    layers, linear = use.adapter.config.layers, layout.linears.get(tensor)
    if layers is not None and linear is not None and linear.layer is not None and linear.layer not in layers:
        raise InputError(
            f"layers_to_transform: {use.name} holds a pair for layer {linear.layer}, which it does not name",
            where=str(use.adapter.directory),
            fix="its config and its weights are not of one adapter: save it again",
        )


def _check_targets(use: Use, layout: _Layout, note: Callable[[str], None]) -> None:
    """Notes modules that the config names and that have no pair, as in an adapter that was saved in part."""
    config = use.adapter.config
    if not isinstance(config.targets, tuple) or config.layers is not None:
        return
    modules = [name.removesuffix(WEIGHT) for name in layout.linears]
    named = [each for each in modules if any(f".{each}".endswith(f".{target}") for target in config.targets)]
    held = [f".{module}" for module in use.adapter.pairs]
    without = [
        each for each in named if not any(f".{each}".endswith(m) or m.endswith(f".{each}") for m in held)
    ]
    if without:
        note(
            f"{use.name} names {without[0]} in target_modules and holds no pair for it"
            + (f", nor for {len(without) - 1} others" if without[1:] else "")
            + ": they stay as they are"
        )


def _drop_unchanged(base: Checkpoint, targets: dict[str, Target]) -> None:
    """Takes out tensors that are stored whole and are the base's own: PEFT saves embeddings beside pairs."""
    import numpy as np

    for name, target in list(targets.items()):
        for index, term in enumerate(target.terms):
            if term.saved is not None:
                own = base.tensors.float32(target.origin)
                if np.array_equal(own, term.use.adapter.tensors.float32(term.saved)):
                    target.terms[index] = replace(term, saved=None)
        target.terms = [term for term in target.terms if term.saved is not None or term.pair is not None]
        if not target.terms:
            del targets[name]


def _untied(
    base: Checkpoint, layout: _Layout, targets: Mapping[str, Target], note: Callable[[str], None]
) -> Plan:
    """The plan, with a head of its own where embedding and head were one and no longer are."""
    model, head = layout.model, layout.head
    shared = _shared(base, layout)
    touched = [name for name in targets if name in shared]
    if not touched:
        return Plan(targets)
    terms = [term for name in touched for term in targets[name].terms]
    keeps = next((term.use for term in terms if term.use.adapter.config.keeps_tie), None)
    if keeps is not None:
        raise InputError(
            f"ensure_weight_tying: {keeps.name} changes embedding and head as one, which is not folded",
            where=str(keeps.adapter.directory),
        )
    if model is None or head is None:
        raise InputError(
            f"{touched[0]} of the base is several tables at once, and {terms[0].use.name} changes one",
            where=str(base.directory / CONFIG_FILE),
            fix=f"save the base with {TIED_KEY}: false, every table a tensor of its own",
        )
    note(
        "the output head was tied to the token embedding, of which an adapter changes one: the head is a "
        "tensor of its own now"
    )
    return Plan(targets, head.name)


def _shared(base: Checkpoint, layout: _Layout) -> tuple[str, ...]:
    """The tensors that are more than one of a network's tables: embedding and head, or two embeddings."""
    model, outline = layout.model, base.outline
    if model is None:
        if not outline.tied:
            return ()
        return tuple(
            name
            for name in base.tensors.names()
            if base.tensors.info(name).shape[:1] == (outline.vocabulary,)
        )
    if model.encoder is not None:
        return model.embeddings if model.tied or len(model.embeddings) == 1 else ()
    return (model.embedding, *((layout.head.name,) if layout.head else ())) if model.tied else ()
