"""From a merge's recipe and the headers of its models to what is done to every tensor of the output.

Nothing is read but headers, configs and tokenizers, so whatever does not fit is refused before a byte is
written. Layers of the output come slice by slice; what stands before them is merged as the first slice's
models are, at t = 0, what stands behind them as the last slice's, at t = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ...artifacts.tensor_header import TensorShape
from ..model.dtypes import STORED
from .method import REQUIRED
from .models import Model
from .recipe import Member
from .settings import first_of
from .task import Input, Operand, TensorTask

if TYPE_CHECKING:
    from ..model.layout import Stack
    from .method import Method, Parameter
    from .recipe import Module, Recipe, Settings, Slice


# (model, the tensor's name in the merge) → what reads it.
Opener = Callable[["Model", str], Operand]


@dataclass(frozen=True)
class Plan:
    """tasks: in the order of the network.  layers: stack → (input, layer) that each output layer is named
    after.  read_bytes, written_bytes: what carrying it out moves.  is_tied: the head is the embedding.
    """

    tasks: tuple[TensorTask, ...]
    layers: Mapping[str, tuple[tuple[str, int], ...]]
    read_bytes: int
    written_bytes: int
    is_tied: bool


def resolve(recipe: Recipe, method: Method, models: Mapping[str, Model], opener: Opener) -> Plan:
    """What a merge does, tensor by tensor.

    models: from :func:`open_models`.  opener: what reads a tensor of a model.  Raises InputError for tensors
    that are missing or have other shapes, layers that a model does not have, stacks that the recipe leaves
    out, and parameters that nothing gives.
    """
    resolver = _Resolver(recipe, method, models, opener)
    tasks = tuple(resolver.tasks())
    return Plan(
        tasks,
        resolver.layers,
        sum(_nbytes(models, operand) for task in tasks for operand in task.operands()),
        sum(task.output.nbytes for task in tasks),
        is_tied=all(each.is_tied for each in models.values()),
    )


def unmatched_filters(recipe: Recipe, models: Mapping[str, Model]) -> Iterator[str]:
    """What to note of filters that occur in the name of no tensor, so that what they give is never taken."""
    names = {name for model in models.values() for name in model.tensors}
    for parameter, wanted in sorted(set(recipe.filters())):
        if not any(wanted in name for name in names):
            yield f"the filter {wanted!r} of {parameter} matches no tensor, so its value is never used"


def _nbytes(models: Mapping[str, Model], operand: Operand) -> int:
    if operand.stored is None:
        return TensorShape(operand.label, "F32", operand.shape).nbytes
    return models[operand.stored.model].checkpoint.tensors.info(operand.stored.tensor).nbytes


@dataclass(frozen=True)
class _Part:
    """A member of a slice at one tensor. tensor: its name in the merge, of that member's own layer."""

    member: Member
    model: Model
    tensor: str


@dataclass(frozen=True)
class _Span:
    """The layers [start, stop) of a model that a slice takes."""

    member: Member
    model: Model
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    def places(self, stack: str, offset: int) -> tuple[str, ...]:
        return self.model.layout.stacks[stack].layers[self.start + offset]

    def part(self, stack: str, offset: int, place: str) -> _Part:
        tensor = self.model.layout.stacks[stack].tensor(self.start + offset, place)
        return _Part(self.member, self.model, tensor)


class _Resolver:
    def __init__(self, recipe: Recipe, method: Method, models: Mapping[str, Model], opener: Opener) -> None:
        self.recipe = recipe
        self.method = method
        self.models = models
        self.opener = opener
        self.donor = models[recipe.donor]
        self.layers: dict[str, tuple[tuple[str, int], ...]] = {}
        self.modules = self._modules()

    def tasks(self) -> Iterator[TensorTask]:
        layout = self.donor.layout
        for each in self.models.values():
            if extra := {*each.layout.before, *each.layout.behind} - {*layout.before, *layout.behind}:
                raise each.refuse(f"has {min(extra)}, which {self.donor.title} lacks", SIBLINGS)
        for name in layout.before:
            module = self._owner(name)
            yield self._outside(name, module, module.slices[0], 0.0)
        for name, stack in sorted(layout.stacks.items()):
            yield from self._stack(name, stack, self.modules[name])
        for name in layout.behind:
            module = self._owner(name)
            yield self._outside(name, module, module.slices[-1], 1.0)

    def _modules(self) -> dict[str, Module]:
        """The part of the recipe that is for each stack."""
        stacks, written = self.donor.layout.stacks, self.recipe.modules
        if not stacks:
            fix = "its tensors' names hold no numbers that run from 0"
            raise self.donor.refuse("has no layers that can be told from its tensors' names", fix)
        if "" in written:
            module = written[""]
            if len(stacks) > 1 and any(member.layers for each in module.slices for member in each.members):
                fix = f"write modules: with slices for each of {', '.join(sorted(stacks))}"
                raise self.donor.refuse(f"has {len(stacks)} stacks of layers, and the recipe one", fix)
            return dict.fromkeys(stacks, module)
        fix = f"name exactly these modules: {', '.join(sorted(stacks))}"
        if strange := sorted(set(written) - set(stacks)):
            raise self.donor.refuse(f"does not have a stack of layers {strange[0]!r}", fix)
        if left := sorted(set(stacks) - set(written)):
            raise self.donor.refuse(f"has a stack of layers {left[0]!r}, which the recipe leaves out", fix)
        return dict(written)

    def _owner(self, name: str) -> Module:
        """Whose recipe a tensor outside the layers follows: its own stack's, else the first one's."""
        stack = self.donor.layout.stack_of(name) or min(self.modules)
        return self.modules[stack]

    def _outside(self, name: str, module: Module, slice_: Slice, t: float) -> TensorTask:
        parts = [_Part(member, self.models[member.model], name) for member in slice_.members]
        base = self._base(slice_)
        return self._task(
            name, parts, None if base is None else _Part(_of(slice_, base), base, name), module, slice_, t
        )

    def _stack(self, name: str, stack: Stack, module: Module) -> Iterator[TensorTask]:
        sources: list[tuple[str, int]] = []
        for number, each in enumerate(module.slices):
            base = self._base(each)
            below = None if base is None else self._below(each, base, name, number)
            spans = [self._span(member, name, number) for member in each.members]
            first = spans[0] if below is None else below
            self._check_counts([*([below] if below else []), *spans])
            for offset in range(first.count):
                t = offset / (first.count - 1) if first.count > 1 else 1.0
                places = first.places(name, offset)
                self._check_places(spans, first, name, offset)
                output = len(sources)
                sources.append((first.model.name, first.start + offset))
                for place in places:
                    parts = [span.part(name, offset, place) for span in spans]
                    base_part = below.part(name, offset, place) if below else None
                    yield self._task(stack.tensor(output, place), parts, base_part, module, each, t)
        self.layers[name] = tuple(sources)

    def _below(self, slice_: Slice, base: Model, stack: str, number: int) -> _Span:
        """The layers of the base; a slice that has ranges must give its too."""
        member = _of(slice_, base)
        if slice_.members[0].layers and not member.layers:
            fix = f"list {base.title} among the slice's sources, with its layer_range"
            raise base.refuse(f"is the base, but slice {number} does not say which of its layers", fix)
        return self._span(member, stack, number)

    def _span(self, member: Member, stack: str, number: int) -> _Span:
        """The layers of a model that a slice takes."""
        model, layers = self.models[member.model], member.layers
        if stack not in model.layout.stacks:
            raise model.refuse(f"lacks the stack of layers {stack!r} that {self.donor.title} has", SIBLINGS)
        count = len(model.layout.stacks[stack].layers)
        if layers is not None and layers[1] > count:
            fix = f"layer_range ends at {count} at most"
            raise model.refuse(f"has {count} layers, so slice {number} cannot take {list(layers)} of it", fix)
        return _Span(member, model, *(layers or (0, count)))

    def _check_counts(self, spans: Sequence[_Span]) -> None:
        for span in spans[1:]:
            if span.count != spans[0].count:
                what = f"has {span.count} layers, but {spans[0].model.title} has {spans[0].count}"
                raise span.model.refuse(what, "write slices, with a layer_range for each source")

    def _check_places(self, spans: Sequence[_Span], first: _Span, stack: str, offset: int) -> None:
        """Raises InputError for a tensor of a layer that the model it is named after lacks."""
        for span in spans:
            if extra := set(span.places(stack, offset)) - set(first.places(stack, offset)):
                tensor = span.part(stack, offset, min(extra)).tensor
                raise span.model.refuse(f"has {tensor}, which {first.model.title} lacks", SIBLINGS)

    def _base(self, slice_: Slice) -> Model | None:
        name = slice_.base or self.recipe.base
        return None if name is None or self.method.base == "none" else self.models[name]

    def _task(
        self, name: str, parts: Sequence[_Part], base: _Part | None, module: Module, slice_: Slice, t: float
    ) -> TensorTask:
        """The task for one output tensor, once its sources have one shape and every parameter a value."""
        others = [part for part in parts if base is None or part.model.name != base.model.name]
        opened = [(part, self._open(part)) for part in ([base] if base else []) + others]
        self._check_shapes(name, opened)
        shared = [slice_.parameters, module.parameters, self.recipe.parameters]
        inputs = tuple(
            Input(
                operand,
                self._values(False, [part.member.parameters, *shared], part.tensor, t, part.model.title),
            )
            for part, operand in opened[1 if base else 0 :]
        )
        output = TensorShape(name, self._dtype(opened[0][0]), opened[0][1].shape)
        values = self._values(True, shared, name, t, "the merge")
        return TensorTask(output, self.method.name, opened[0][1] if base else None, inputs, values)

    def _open(self, part: _Part) -> Operand:
        if part.tensor not in part.model.tensors:
            raise part.model.refuse(f"lacks {part.tensor}, which {self.donor.title} has", SIBLINGS)
        return self.opener(part.model, part.tensor)

    def _check_shapes(self, name: str, opened: Sequence[tuple[_Part, Operand]]) -> None:
        first, one = opened[0]
        for part, operand in opened[1:]:
            if operand.shape == one.shape:
                continue
            rows = {each.model.vocabulary for each in (first, part)}
            is_rows = len(rows) == 2 and operand.shape[1:] == one.shape[1:]
            fix = (
                "their vocabularies differ: say whose tokens the output has, with tokenizer_source: union, "
                "base or one of the models"
                if is_rows
                else SIBLINGS
            )
            raise part.model.refuse(
                f"has {name} of shape {list(operand.shape)}, but {first.model.title} has {list(one.shape)}",
                fix,
            )

    def _dtype(self, part: _Part) -> str:
        """As the recipe says, else as the base, or the first model, stores it; arithmetic is in float32."""
        wanted = self.recipe.out_dtype or self.recipe.dtype
        if wanted is not None:
            return STORED[wanted]
        info = part.model.checkpoint.tensors.info(part.model.tensors[part.tensor])
        return "F32" if info.dtype == "F64" else info.dtype

    def _values(
        self, is_shared: bool, levels: Sequence[Settings], tensor: str, t: float, whose: str
    ) -> dict[str, object]:
        found: dict[str, object] = {}
        for each in self.method.parameters:
            if (each.scope == "shared") == is_shared:
                value = first_of(each.name, levels, tensor, t)
                if value is None and each.default is REQUIRED:
                    raise _missing(each, self.method, tensor, whose)
                found[each.name] = each.default if value is None else value
        return found


SIBLINGS = "merge models of one architecture and size"


def _of(slice_: Slice, base: Model) -> Member:
    """The base's own entry in a slice, or one that stands for it where it has none."""
    return next((each for each in slice_.members if each.model == base.name), Member(base.name))


def _missing(parameter: Parameter, method: Method, tensor: str, whose: str) -> InputError:
    return InputError(
        f"{method.name} needs {parameter.name} for {whose}, and the recipe gives none for {tensor}",
        fix=f"add {parameter.name}: {parameter.doc}",
    )
