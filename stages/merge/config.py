"""A merge's recipe as it is written, read strictly: mergekit's YAML, unchanged, and Ingot's short form.

    merge_method: ties                        # a file of mergekit's: merge: {config: file.yaml}
    base_model: org/base
    models: [{model: org/a, parameters: {weight: 0.6}}, {model: org/b, parameters: {weight: 0.4}}]
    parameters: {density: 0.5}
    dtype: bfloat16

    merge: {method: ties, models: [{model: org/a, weight: 0.6}, {model: org/b, weight: 0.4}],
            base: org/base, density: 0.5, dtype: bfloat16}

The short form has the same keys, and those of ``parameters`` may stand a level higher. Whatever cannot be
honoured is an error with its key, file and line: mergekit passes over parameters that a method does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.yaml import Written, read_yaml
from ..model.dtypes import STORED
from .recipe import BASE, UNION, Member, Module, Recipe, Slice, TokenRule, Vocabulary
from .settings import check_setting
from .written import Place

if TYPE_CHECKING:
    from pathlib import Path

    from .method import Method
    from .references import Inputs

WITHIN = ("models", "slices", "modules")
TOP = (
    "merge_method", *WITHIN, "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template",
)  # fmt: skip
SHORT = (
    *WITHIN,
    "base",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)
ALL_STACKS = ""


def read_file(path: Path, inputs: Inputs, source: str | None = None, own: Method | None = None) -> Recipe:
    """The merge in a file of mergekit's. source: its name in messages.  Errors and own: see :func:`read`."""
    return read(read_yaml(path, source), inputs, own)


def read(written: Written, inputs: Inputs, own: Method | None = None) -> Recipe:
    """The merge that a document of mergekit's describes.

    inputs: takes the models.  own: a method that no registry has.  Raises RecipeError for unknown keys,
    methods and parameters, values of another type or out of range, and a number of models that the
    method does not take.
    """
    from .method import get

    top = Place.root(written)
    top.mapping(*TOP)
    place = top.child("merge_method")
    if place.value is None:
        raise RecipeError("merge_method is missing", where=written.source, fix="name one, such as linear")
    name = place.text()
    try:
        method = own if own is not None and own.name == name else get(name)
    except RecipeError as error:
        raise RecipeError(error.what, where=place.where, fix=error.fix) from None
    return _Reader(method, inputs, is_short=False).recipe(top)


def read_short(values: Mapping[str, object], method: Method, inputs: Inputs, node: str | None) -> Recipe:
    """The merge that a recipe's entry `merge: {method: ...}` describes, without its method.

    node: what comes before it in the recipe; it is the base where the method needs one and none is named.
    Raises RecipeError as :func:`read` does, with keys such as ``models[1].weight``.
    """
    reader = _Reader(method, inputs, is_short=True)
    top = Place.root(Written(dict(values), ""))
    top.mapping(*SHORT, *reader.names)
    return reader.recipe(top, node)


def renamed(values: Mapping[str, object], inputs: Inputs) -> dict[str, object]:
    """The values of a short form that was read with ``inputs``, with an input in place of every model."""

    def model(place: Place, key: str) -> dict[str, object]:
        child = place.child(key)
        return {} if child.value is None else {key: inputs.name(child)}

    def each(place: Place, key: str, change: Callable[[Place], object]) -> dict[str, object]:
        child = place.child(key)
        return {key: [change(item) for item in child.items()]} if child.value else {}

    def member(place: Place) -> dict[str, object]:
        if isinstance(place.value, str):
            return {"model": inputs.name(place)}
        return {**place.value, **model(place, "model")}

    def slice_(place: Place) -> dict[str, object]:
        return {**place.value, **each(place, "sources", member), **model(place, "base_model")}

    def stacks(place: Place) -> dict[str, object]:
        return {**place.value, **each(place, "models", member), **each(place, "slices", slice_)}

    def tokenizer(place: Place, key: str) -> dict[str, object]:
        child = place.child(key)
        return {} if child.value in (None, UNION, BASE) else {key: inputs.name(child)}

    def rule(place: Place) -> dict[str, object]:
        source = place.child("source")
        if not isinstance(source.value, Mapping) or "kind" not in source.value:
            return {**place.value, **model(place, "source")}
        return {**place.value, "source": {**source.value, **model(source, "model")}}

    top = Place.root(Written(dict(values), ""))
    changed = {**stacks(top), **model(top, "base"), **tokenizer(top, "tokenizer_source")}
    if values.get("modules"):
        place = top.child("modules")
        changed["modules"] = {name: stacks(place.child(name)) for name in place.value}
    if values.get("tokenizer"):
        place = top.child("tokenizer")
        tokens = place.child("tokens")
        rules = {name: rule(tokens.child(name)) for name in tokens.mapping()}
        changed["tokenizer"] = {
            **place.value,
            **tokenizer(place, "source"),
            **({"tokens": rules} if rules else {}),
        }
    return changed


class _Reader:
    def __init__(self, method: Method, inputs: Inputs, *, is_short: bool) -> None:
        self.method = method
        self.inputs = inputs
        self.is_short = is_short
        self.declared = {each.name: each for each in method.parameters}
        self.names = tuple(self.declared)

    def recipe(self, top: Place, node: str | None = None) -> Recipe:
        modules = self.stacks(top)
        base = self.reference(top.child("base" if self.is_short else "base_model"))
        if base is None and self.method.base == "required" and node is not None:
            base = self.inputs.node(node, "base")
        recipe = Recipe(
            self.method.name,
            modules,
            base,
            self.parameters(top),
            self.dtype(top.child("dtype")),
            self.dtype(top.child("out_dtype")),
            chat_template=self.chat_template(top.child("chat_template")),
        )
        self.check_members(top, recipe)
        words = self.vocabulary(top, recipe)
        return Recipe(**{**vars(recipe), "vocabulary": words})

    def stacks(self, top: Place) -> dict[str, Module]:
        given = [key for key in WITHIN if top.child(key).value not in (None, [], {})]
        if len(given) != 1:
            what = "names no models" if not given else f"has {' and '.join(given)}"
            where = top.child(given[1]).where if given else top.where
            label = top.written.source or "the merge"
            fix = "write exactly one of models, slices and modules"
            raise RecipeError(f"{label} {what}", where=where, fix=fix)
        place = top.child(given[0])
        if given[0] != "modules":
            return {ALL_STACKS: Module(self.slices(top))}
        return {name: self.module(place.child(name)) for name in place.mapping()}

    def module(self, place: Place) -> Module:
        place.mapping("models", "slices", "parameters")
        given = [key for key in ("models", "slices") if place.child(key).value not in (None, [])]
        if len(given) != 1:
            raise place.error(
                "has no models" if not given else "has models and slices", "write one of the two"
            )
        return Module(self.slices(place), self.parameters(place))

    def slices(self, place: Place) -> tuple[Slice, ...]:
        """Those under `slices`; `models` are one of all layers."""
        whole = place.child("models")
        if whole.value:
            return (Slice(tuple(self.member(each) for each in whole.items())),)
        return tuple(self.slice(each) for each in place.child("slices").items())

    def slice(self, place: Place) -> Slice:
        value = place.mapping("sources", "base_model", "residual_weight", "parameters")
        if value.get("residual_weight") is not None:
            what = "cannot be honoured: mergekit reads it and never uses it"
            raise place.child("residual_weight").error(what, "take it out")
        if not value.get("sources"):
            raise place.error("has no sources", "write sources: [{model: ..., layer_range: [first, end]}]")
        members = tuple(self.member(each, is_slice=True) for each in place.child("sources").items())
        lengths = {stop - start for start, stop in (each.layers for each in members if each.layers)}
        if len(lengths) > 1:
            what = f"takes {' and '.join(map(str, sorted(lengths)))} layers of its sources"
            raise place.error(what, "all sources of a slice give the same number of layers")
        return Slice(members, self.reference(place.child("base_model")), self.parameters(place))

    def member(self, place: Place, *, is_slice: bool = False) -> Member:
        if self.is_short and isinstance(place.value, str):
            return Member(self.inputs.name(place))
        keys = ("model", "parameters", *(("layer_range",) if is_slice else ()))
        place.mapping(*keys, *(self.names if self.is_short else ()))
        layers = self.layers(place.child("layer_range")) if is_slice else None
        return Member(self.inputs.name(place.child("model")), self.parameters(place, of_model=True), layers)

    def layers(self, place: Place) -> tuple[int, int]:
        bounds = [each.whole(0) for each in place.items()] if place.value is not None else []
        if len(bounds) != 2 or bounds[0] >= bounds[1]:
            raise place.wrong("[first, end] with first < end", "[0, 8] are the layers 0 to 7")
        return bounds[0], bounds[1]

    def parameters(self, place: Place, *, of_model: bool = False) -> dict[str, object]:
        """The settings under `parameters`, and in the short form those beside it."""
        within = place.child("parameters")
        within.mapping(*self.names)
        found = {name: within.child(name) for name in within.value or {}}
        if self.is_short:
            for name in self.names:
                if name not in place.value:
                    continue
                if name in found:
                    raise place.child(name).error("is written twice", f"take {found[name].label} out")
                found[name] = place.child(name)
        checked = {}
        for name, each in found.items():
            parameter = self.declared[name]
            if of_model and parameter.scope == "shared":
                fix = "write it once for all models, under the recipe's or the slice's own parameters"
                raise each.error("is of the whole merge, not of one model", fix)
            checked[name] = check_setting(each, parameter)
        return {name: value for name, value in checked.items() if not self.declared[name].is_ignored}

    def reference(self, place: Place) -> str | None:
        return None if place.value is None else self.inputs.name(place)

    def dtype(self, place: Place) -> str | None:
        if place.value is None:
            return None
        plain = Place(place.text().removeprefix("torch."), place.written, place.path, place.prefix)
        return plain.choice(tuple(STORED))

    def chat_template(self, place: Place) -> str | None:
        if place.value is None:
            return None
        from .templates import check_named

        check_named(place)
        return place.text()

    def vocabulary(self, top: Place, recipe: Recipe) -> Vocabulary | None:
        short, place = top.child("tokenizer_source"), top.child("tokenizer")
        if place.value is None:
            return None if short.value is None else Vocabulary(self.tokenizer(short, recipe))
        if short.value is not None:
            raise short.error("and tokenizer say the same thing twice", "keep one of the two")
        place.mapping("source", "tokens", "pad_to_multiple_of")
        source, pad = place.child("source"), place.child("pad_to_multiple_of")
        tokens = place.child("tokens")
        return Vocabulary(
            UNION if source.value is None else self.tokenizer(source, recipe),
            {token: self.rule(tokens.child(token), recipe) for token in tokens.mapping()},
            None if pad.value is None else pad.whole(1),
        )

    def tokenizer(self, place: Place, recipe: Recipe) -> str:
        """`union`, `base`, or the input whose tokenizer is taken."""
        if place.value in (UNION, BASE):
            return str(place.value)
        return self.merged(place, recipe)

    def rule(self, place: Place, recipe: Recipe) -> TokenRule:
        place.mapping("source", "force")
        source, force = place.child("source"), place.child("force")
        is_forced = force.value is not None and force.flag()
        if source.value is None:
            return TokenRule(force=is_forced)
        if not isinstance(source.value, Mapping) or "kind" not in source.value:
            return TokenRule("model", self.merged(source, recipe), force=is_forced)
        kind = source.child("kind").choice(("zero", "model_token"))
        if kind == "zero":
            source.mapping("kind")
            return TokenRule(kind, force=is_forced)
        source.mapping("kind", "model", "token", "token_id")
        token, number = source.child("token"), source.child("token_id")
        if (token.value is None) == (number.value is None):
            raise source.error("names not exactly one token", "write one of token: TEXT and token_id: NUMBER")
        model = self.merged(source.child("model"), recipe)
        if token.value is None:
            return TokenRule("token", model, token_id=number.whole(0), force=is_forced)
        return TokenRule("token", model, token.text(), force=is_forced)

    def merged(self, place: Place, recipe: Recipe) -> str:
        """A model of the merge; another one has no place in what is merged."""
        known = recipe.inputs()
        name = self.inputs.name(place)
        if name not in known:
            models = ", ".join(self.inputs.written()[each] for each in known)
            raise place.wrong("a model of this merge", f"its models are {models}")
        return name

    def check_members(self, top: Place, recipe: Recipe) -> None:
        """Raises RecipeError where the method takes another number of models, or lacks its base."""
        for name, module in recipe.modules.items():
            for number, each in enumerate(module.slices):
                base = each.base or recipe.base
                place = top.child("modules").child(name) if name else top
                is_sliced = bool(place.child("slices").value)
                place = place.child("slices").child(number) if is_sliced else place.child("models")
                if base is None and self.method.base == "required":
                    key = "base" if self.is_short else "base_model"
                    fix = f"add {key}: MODEL, that which the others come from"
                    what = f"{key} is missing: {self.method.name} takes differences from it"
                    raise RecipeError(what, where=place.where, fix=fix)
                others = [m.model for m in each.members if self.method.base == "none" or m.model != base]
                self.check_count(place, len(others), base)
                self.check_base_parameters(place, each.members, base)

    def check_count(self, place: Place, count: int, base: str | None) -> None:
        least, most = self.method.least, self.method.most
        if count < least or (most is not None and count > most):
            beside = " beside the base" if base is not None and self.method.base != "none" else ""
            span = str(least) if least == most else f"{least} to {most}" if most else f"at least {least}"
            plural = "s" if count != 1 else ""
            raise place.error(f"has {count} model{plural}{beside}, but {self.method.name} takes {span}")

    def check_base_parameters(self, place: Place, members: Iterable[Member], base: str | None) -> None:
        for member in members:
            if member.model == base and self.method.base != "none" and member.parameters:
                name = next(iter(member.parameters))
                raise place.error(
                    f"gives {name} to the base, which {self.method.name} takes differences from",
                    f"take {name} out there: it would have no effect",
                )
