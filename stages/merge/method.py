"""What a merge method is, and the registry that finds methods by name.

A method is one module with a declaration and a function::

    METHOD = Method("task_arithmetic", base="required", parameters=(weight(), ...), merge=merge,
                    paper="arXiv:2212.04089", summary="Add weighted differences to the base")

    def merge(task: TensorTask, blocks: Blocks) -> Kernel | Operand: ...

Planning imports the module to read its declaration, so it imports nothing heavy at its top. ``merge`` is
called once a tensor: it takes what it needs to know of the whole (`Blocks.sum`, `Blocks.map`; see
`blocks.py`) and returns the function that makes one block of the output, or an operand that is the output
as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...artifacts.entry_points import entry_points
from ...artifacts.errors import IngotError, RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from ..base import Context
    from ..model.checkpoint import Checkpoint
    from .blocks import Block, Blocks, Fused
    from .statistics import Statistic
    from .task import Operand, TensorTask

    # One block of the output, float32 [block.count]; it may be a buffer of the block's.
    Kernel = Callable[[Block], torch.Tensor]
    Merge = Callable[[TensorTask, Blocks], Kernel | Fused | Operand]
    Check = Callable[[TensorTask], None]
    # What is found of a model over a calibration text, by its own names of tensors. The context is that of
    # the stage, with the model as its only input, called ``model``, and a directory of the model's own.
    Measure = Callable[[Context[Any], Checkpoint], Mapping[str, Statistic]]

Scope = Literal["shared", "input", "non_base"]
Base = Literal["none", "optional", "required"]
Unit = Literal["element", "row", "tensor"]

ENTRY_POINTS = "ingot.merge_methods"
MODULES = "ingot.stages.merge.methods"
BUILTIN = (
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "fisher",
    "karcher",
    "linear",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "regmean",
    "sce",
    "slerp",
    "task_arithmetic",
    "ties",
)


class _Required:
    """The default of parameters that have none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    scope: ``shared`` by all inputs; one for each ``input``; one for each ``non_base`` input, and none for a
    base that is listed.  default: REQUIRED, None for a parameter that may be left out, or a value.
    kind: float, int or bool.  doc: what it is and, in a few words, why the default is what it is.
    minimum, maximum: the bounds, themselves allowed.  is_ignored: it changes nothing, but mergekit's recipes
    have it.
    """

    name: str
    doc: str
    scope: Scope = "shared"
    default: object = REQUIRED
    kind: type[float | int | bool] = float
    minimum: float | None = None
    maximum: float | None = None
    is_ignored: bool = False


@dataclass(frozen=True)
class Method:
    """A way to make one model of several.

    merge: see the module's head.  base: whether it takes a model that differences are taken from, which then
    is no input.  least, most: how many inputs it takes beside the base.  unit: what a block holds whole: any
    elements, rows (of the last dimension), or the tensor, whose memory then is not bounded by blocks.
    is_random: whether it draws, so that the seed decides what comes out.  paper: where it is from.
    check: raises InputError for a task whose parameters it cannot be carried out with, before anything runs.
    statistics: finds what it needs to know of each model beside the weights; see `statistics.py`.
    """

    name: str
    merge: Merge
    summary: str
    paper: str
    base: Base = "none"
    least: int = 1
    most: int | None = None
    parameters: tuple[Parameter, ...] = ()
    unit: Unit = "element"
    is_random: bool = False
    check: Check | None = None
    statistics: Measure | None = None

    def parameter(self, name: str) -> Parameter:
        """The parameter called ``name``; raises RecipeError with the nearest one."""
        for each in self.parameters:
            if each.name == name:
                return each
        known = [each.name for each in self.parameters]
        guess = nearest(name, known)
        fix = f"did you mean {guess}?" if guess else f"it takes {', '.join(known) or 'no parameters'}"
        raise RecipeError(f"{self.name} has no parameter {name!r}", fix=fix)


def names() -> tuple[str, ...]:
    """The names of all methods, built in and registered by entry points (group `ingot.merge_methods`)."""
    return tuple(sorted({*BUILTIN, *(point.name for point in entry_points(ENTRY_POINTS))}))


def get(name: str) -> Method:
    """The method called ``name``; raises RecipeError with the nearest name when there is none."""
    if name in BUILTIN:
        found: object = importlib.import_module(f"{MODULES}.{name}").METHOD
    else:
        points = {point.name: point for point in entry_points(ENTRY_POINTS)}
        if name not in points:
            guess = nearest(name, names())
            fix = f"did you mean {guess}?" if guess else f"methods are {', '.join(names())}"
            raise RecipeError(f"there is no merge method {name!r}", fix=fix)
        found = points[name].load()
    if not isinstance(found, Method) or found.name != name:
        raise RecipeError(f"merge method {name!r} is registered, but its module does not define it")
    return found


def refuse_statistics(method: Method, what: str) -> None:
    """Raises RecipeError for a method that takes a calibration text, which ``what`` has no place for."""
    if method.statistics is not None:
        fix = f"write it as a step of its own: merge: {{method: {method.name}, models: [...]}}"
        raise RecipeError(f"{method.name} takes a calibration text, for which {what} has no place", fix=fix)


def load_method_file(path: Path) -> Method:
    """The method that a Python file defines as ``METHOD``.

    Raises RecipeError for a file that is missing, fails to run or defines none, and for the name of a method
    that exists.
    """
    fix = "define METHOD = Method(...), from ingot.stages.merge.method"
    spec = importlib.util.spec_from_file_location(f"ingot_merge_method_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise RecipeError(f"{path.name} is no Python file", where=str(path), fix=fix)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except IngotError:
        raise
    except (Exception, SystemExit) as error:
        what = f"the merge method cannot be read: {type(error).__name__}: {error}"
        raise RecipeError(what, where=str(path)) from error
    found = getattr(module, "METHOD", None)
    if not isinstance(found, Method):
        raise RecipeError(f"{path.name} defines no merge method", where=str(path), fix=fix)
    if found.name in names():
        what = f"{path.name} calls its merge method {found.name!r}, which exists"
        raise RecipeError(what, where=str(path), fix="give it another name")
    return found
