"""A merge as a value: what its recipe says once every model in it is the name of an input.

It is the same for mergekit's YAML and for the short form (see `config.py`), holds nothing of where it was
written, and goes to JSON and back, since it is a parameter of the stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# A number, a truth value or text; a list of numbers, spread over the layers; or a list of {filter, value}.
Setting = object
Settings = Mapping[str, Setting]

UNION, BASE = "union", "base"


@dataclass(frozen=True)
class Member:
    """A model that goes into a slice. model: the input's name.  layers: [first, last), None for all."""

    model: str
    parameters: Settings = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """Layers of the output that follow one another. base: another one than the recipe's."""

    members: tuple[Member, ...]
    base: str | None = None
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """A stack of layers, such as a decoder, slice by slice."""

    slices: tuple[Slice, ...]
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class TokenRule:
    """Where a token's embedding comes from where a model has none of its own.

    kind: `zero`; `model`, the same token of ``model``; `token`, the token ``token`` or ``token_id`` of
    ``model``; `default`, as of any token.  force: for models that have one of their own, too.
    """

    kind: str = "default"
    model: str | None = None
    token: str | None = None
    token_id: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens the output has. source: `union`, `base`, or the input whose tokenizer is taken."""

    source: str
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A merge. modules: by name; one without a name, "", is for every stack that the network has.

    dtype: what models are merged in, and written in where out_dtype says nothing else; both are dtype names
    such as `bfloat16`, and None stands for what the base, or else the first model, is stored in.
    """

    method: str
    modules: Mapping[str, Module]
    base: str | None = None
    parameters: Settings = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    vocabulary: Vocabulary | None = None
    chat_template: str | None = None

    @property
    def donor(self) -> str:
        """The input whose config, and whose tokenizer where none is chosen, the output takes."""
        return self.base or next(self.members()).model

    def members(self) -> Iterator[Member]:
        """Every model of every slice in written order; modules, whose order JSON does not keep, by name."""
        for _, module in sorted(self.modules.items()):
            for each in module.slices:
                yield from each.members

    def inputs(self) -> tuple[str, ...]:
        """The names of all inputs that tensors may come from, in the order in which they occur."""
        bases = [each.base for module in self.modules.values() for each in module.slices]
        names = [*(member.model for member in self.members()), *bases, self.base]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def filters(self) -> Iterator[tuple[str, str]]:
        """Parameter and text of every filter."""
        levels = [self.parameters]
        for module in self.modules.values():
            levels.append(module.parameters)
            for each in module.slices:
                levels += [each.parameters, *(member.parameters for member in each.members)]
        for level in levels:
            for name, setting in level.items():
                for entry in setting if isinstance(setting, list) else ():
                    if isinstance(entry, Mapping) and "filter" in entry:
                        yield name, str(entry["filter"])

    def to_json(self) -> dict[str, object]:
        """Plain values; what is not said is left out, so equal merges have equal JSON."""
        return _plain(
            method=self.method,
            base=self.base,
            modules={name: _module(module) for name, module in self.modules.items()},
            parameters=dict(self.parameters),
            dtype=self.dtype,
            out_dtype=self.out_dtype,
            tokenizer=_vocabulary(self.vocabulary) if self.vocabulary else None,
            chat_template=self.chat_template,
        )

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_json`."""
        words = value.get("tokenizer")
        return Recipe(
            value["method"],
            {name: _to_module(module) for name, module in value["modules"].items()},
            value.get("base"),
            value.get("parameters", {}),
            value.get("dtype"),
            value.get("out_dtype"),
            _to_vocabulary(words) if words else None,
            value.get("chat_template"),
        )


def _plain(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None and value != {}}


def _module(module: Module) -> dict[str, object]:
    return _plain(slices=[_slice(each) for each in module.slices], parameters=dict(module.parameters))


def _slice(value: Slice) -> dict[str, object]:
    members = [
        _plain(
            model=member.model,
            layers=list(member.layers) if member.layers else None,
            parameters=dict(member.parameters),
        )
        for member in value.members
    ]
    return _plain(members=members, base=value.base, parameters=dict(value.parameters))


def _vocabulary(words: Vocabulary) -> dict[str, object]:
    rules = {
        token: _plain(**{**vars(rule), "force": rule.force or None}) for token, rule in words.tokens.items()
    }
    return _plain(source=words.source, tokens=rules, pad_to_multiple_of=words.pad_to_multiple_of)


def _to_module(value: Mapping[str, Any]) -> Module:
    return Module(tuple(_to_slice(each) for each in value["slices"]), value.get("parameters", {}))


def _to_slice(value: Mapping[str, Any]) -> Slice:
    members = tuple(
        Member(
            each["model"],
            each.get("parameters", {}),
            (each["layers"][0], each["layers"][1]) if "layers" in each else None,
        )
        for each in value["members"]
    )
    return Slice(members, value.get("base"), value.get("parameters", {}))


def _to_vocabulary(value: Mapping[str, Any]) -> Vocabulary:
    rules = {token: TokenRule(**rule) for token, rule in value.get("tokens", {}).items()}
    return Vocabulary(value["source"], rules, value.get("pad_to_multiple_of"))
