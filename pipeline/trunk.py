"""The nodes that targets share: `load` and the recipe's own, each built once for all that takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..artifacts.errors import RecipeError
from ..stages import base
from ..targets.profile import STAGE_SECTIONS
from ..targets.rules import Setting
from .draft import Draft, stage_of
from .layers import METHOD, Settings, outer_layers, resolve, section
from .matrix import Cell, cell_name
from .steps import FROM, LOAD, ONE, Step

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from .matrix import Axis
    from .recipe import Recipe
    from .recipe_targets import Target

CHECKPOINT, QUANTIZED = "checkpoint", "quantized-checkpoint"
EXPORT = "export"
DEQUANTIZE, LOAD_QUANTIZED = "dequantize", "load.quantized"
# Known of a source whose weights another program quantized: how it packed them, and how wide most are.
PACKED, PACKED_WIDTH = "layout", "weights"


class Trunk:
    """Adds shared nodes to a draft when something takes them."""

    def __init__(self, draft: Draft, recipe: Recipe) -> None:
        self._draft = draft
        self._recipe = recipe
        self._steps = {step.name: step for step in recipe.steps}
        self._made: dict[str, str] = {}

    def node(self, name: str, cell: Cell) -> str:
        """The node called ``name`` with the parameters of a cell; it is added with all that it takes.

        A node that the cell's parameters reach is called after them too: ``prune[ffn=0.1]``.
        """
        full = cell_name(name, cell.labels(self.reach(name)))
        if full not in self._made:
            settings = self._settings(cell)
            self._made[full] = (
                self._load(settings) if name == LOAD else self._step(self._steps[name], full, settings, cell)
            )
        return self._made[full]

    def plain(self, name: str, cell: Cell) -> str:
        """The node whose checkpoint has the weights of ``name`` in floating point: what it makes, or what the
        codes of that stand for.
        """
        made = self.node(name, cell)
        if self._draft.builder.output_kind(made) != QUANTIZED:
            return made
        stage = base.get(DEQUANTIZE)
        reason = f"the weights that the codes of {made} stand for"
        return self._draft.add(
            f"{DEQUANTIZE}@{made}", stage, {}, {next(iter(stage.inputs)): made}, reason=reason
        )

    def reach(self, *names: str) -> frozenset[str]:
        """The recipe's names of nodes and of all that they come from."""
        found, waiting = set[str](), list(names)
        while waiting:
            each = waiting.pop()
            if each not in found:
                found.add(each)
                waiting += self._steps[each].takes.values() if each in self._steps else ()
        return frozenset(found)

    def last_checkpoint(self, target: Target) -> str:
        """The last of the recipe's nodes that makes a checkpoint; `load` when none does."""
        making = (name for name in reversed(self._steps) if self._kind(name, target.matrix) == CHECKPOINT)
        return next(making, LOAD)

    def sections(self, source: str) -> tuple[str, ...]:
        """The stages that a target adds which takes ``source``: what is quantized is not quantized again."""
        kind = self._kind(source, ())
        return STAGE_SECTIONS if kind == CHECKPOINT else (EXPORT,) if kind == QUANTIZED else ()

    def _kind(self, name: str, axes: Iterable[Axis]) -> str:
        """What a node makes; where a matrix fans its method out, what the first of the methods makes."""
        if name == LOAD:
            return self._loader().output
        methods = (axis.values[0] for axis in (*self._recipe.matrix, *axes) if axis.path[1] == METHOD)
        return self._stage(self._steps[name], self._settings(Cell(tuple(methods)))).output

    def require_used(self, used: Collection[str]) -> None:
        """Raises RecipeError for a node of the recipe that leads to no target. used: what targets reach."""
        for step in self._steps.values():
            if step.name not in used:
                fix = f"let a target or a node take it ({FROM}: {step.name}), or take it out"
                raise RecipeError(f"stages.{step.name}: no target comes from it", where=step.origin, fix=fix)

    def _settings(self, cell: Cell) -> Settings:
        """What holds for shared nodes: the recipe with the cell's values, then environment and options."""
        written = (*self._recipe.settings, *cell.settings)
        return resolve([written, *outer_layers(self._recipe.overrides, None)])

    def _load(self, settings: Settings) -> str:
        recipe, values = self._recipe, section(settings, LOAD)
        if "model" in values:
            raise RecipeError("load.model: the model is named by model:", where=values["model"].origin)
        origin = recipe.origins.get("model", recipe.source)
        values["model"] = Setting((LOAD, "model"), recipe.model, origin)
        return self._draft.add(LOAD, self._loader(), values, {}, reason="the recipe's model")

    def _loader(self) -> base.Stage[Any]:
        """The stage that loads the recipe's model, by whether its weights are packed already."""
        return base.get(LOAD_QUANTIZED if PACKED in self._draft.facts else LOAD)

    def _step(self, step: Step, full: str, settings: Settings, cell: Cell) -> str:
        stage = self._stage(step, settings)
        inputs = {name: self.node(source, cell) for name, source in self._inputs(step, stage)}
        reason = f"asked for by {step.origin}"
        where = step.place(ONE)
        return self._draft.add(full, stage, section(settings, step.name), inputs, reason=reason, where=where)

    def _stage(self, step: Step, settings: Settings) -> base.Stage[Any]:
        return stage_of(step.family, settings, step.name, "the recipe", step.origin)

    def _inputs(self, step: Step, stage: base.Stage[Any]) -> Iterator[tuple[str, str]]:
        """Input name → the recipe's node, with the stage's own name for an only input."""
        takes: Mapping[str, str] = step.takes
        if ONE not in takes:
            yield from takes.items()
        elif len(stage.inputs) == 1:
            yield next(iter(stage.inputs)), takes[ONE]
        elif stage.inputs or ONE in step.places:
            names = ", ".join(f"{name}: NODE" for name in stage.inputs)
            fix = f"write {FROM}: {{{names}}}" if names else f"take {FROM} out"
            what = f"{step.name}: stage {stage.name} takes {len(stage.inputs)} inputs, not one"
            raise RecipeError(what, where=step.place(ONE), fix=fix)
