"""`matrix:`, a node fanned out over parameter values, and the cells of a target that this leads to.

    matrix: {quantize.bits: [2, 3, 4], quantize.group_size: [32, 128]}

For every target or, under `targets.<name>`, for one. A cell is a leaf of its own, named
`target[bits=2,group_size=32]`: it is gated and reported under that name, and delivered when `--select` names
it. What a parameter does not reach is built once for all cells.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError, nearest
from ..artifacts.schema import unknown_name
from ..targets.profile import SECTIONS
from ..targets.rules import Setting

if TYPE_CHECKING:
    from ..artifacts.yaml import KeyPath, Written

MATRIX = "matrix"
MOST_CELLS = 100
LONGEST_LABEL = 40
# What may stand in the name of a directory on every system, of a node, and of a file of its log.
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_CELL = re.compile(r"(?P<target>[^\[\]]+)(\[(?P<pairs>[^\[\]]*)\])?")


@dataclass(frozen=True)
class Axis:
    """A parameter and the values that it takes, as settings; origin: where the axis was written."""

    path: tuple[str, str]
    values: tuple[Setting, ...]
    origin: str

    def __str__(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True)
class Cell:
    """One choice of values. settings: one an axis.  titles: what each is called in the cell's name."""

    settings: tuple[Setting, ...] = ()
    titles: tuple[str, ...] = ()

    def labels(self, nodes: Container[str] | None = None) -> dict[str, str]:
        """``{"bits": "4"}``: the chosen values; nodes: only of parameters of these, of all when None."""
        pairs = zip(self.titles, self.settings, strict=True)
        return {
            title: label(setting.value)
            for title, setting in pairs
            if nodes is None or setting.path[0] in nodes
        }


def read_matrix(
    tree: Mapping[str, object], written: Written, place: KeyPath, nodes: Sequence[str]
) -> tuple[Axis, ...]:
    """The axes of a `matrix:`; nodes: the names of the recipe's own.

    Raises RecipeError for a key that is no `node.parameter`, an unknown node, and values that cannot name a
    cell or are written twice.
    """
    axes = []
    for key, values in tree.items():
        where = written.where(*place, key)
        node, dot, name = key.partition(".")
        if not dot or not name or "." in name:
            fix = "write matrix: {node.parameter: [values]}, such as {quantize.bits: [3, 4]}"
            raise RecipeError(f"matrix.{key}: this names no parameter of a node", where=where, fix=fix)
        if node not in (*nodes, *SECTIONS):
            raise unknown_name(node, (*nodes, *SECTIONS), prefix="matrix", where=where)
        if not isinstance(values, list) or not values:
            fix = f"write matrix: {{{key}: [one, value, after, another]}}"
            raise RecipeError(f"matrix.{key}: {values!r} is not a list of values", where=where, fix=fix)
        settings = [
            Setting((node, name), value, written.where(*place, key, index))
            for index, value in enumerate(values)
        ]
        _check_labels(key, settings)
        axes.append(Axis((node, name), tuple(settings), where))
    return tuple(axes)


def cells(target: str, axes: Sequence[Axis]) -> Iterator[Cell]:
    """Every choice of one value an axis, the last axis fastest; one empty choice without axes.

    Raises RecipeError when they are more than anybody reads.
    """
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS:
        what = f"matrix: {target} has {count} cells, more than {MOST_CELLS}"
        raise RecipeError(what, where=axes[0].origin, fix="take values out")
    names = [axis.path[1] for axis in axes]
    titles = tuple(str(axis) if names.count(axis.path[1]) > 1 else axis.path[1] for axis in axes)
    for values in itertools.product(*(axis.values for axis in axes)):
        yield Cell(values, titles)


def cell_name(name: str, labels: Mapping[str, str]) -> str:
    """``name[k=v,...]``, or the name alone where there are no labels."""
    return f"{name}[{','.join(f'{key}={value}' for key, value in labels.items())}]" if labels else name


def label(value: object) -> str:
    """A value as a part of a name: what could not stand in the name of a directory becomes a dash."""
    if isinstance(value, list):
        return "+".join(label(item) for item in value) or "none"
    words = {None: "none", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return _UNSAFE.sub("-", text)


def choose(names: Iterable[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The names of targets and cells that ``--select`` means, in their own order.

    `cpu` is the target or all of its cells, `cpu[bits=4]` every cell with that value. Raises RecipeError for
    what means none.
    """
    names = tuple(names)
    found = {text: [name for name in names if _means(text, name)] for text in wanted}
    for text, chosen in found.items():
        if not chosen:
            guess = nearest(text, [*names, *(name.partition("[")[0] for name in names)])
            fix = f"did you mean '{guess}'?" if guess else f"there are {', '.join(names)}"
            raise RecipeError(f"--select: there is no target {text!r}", fix=fix)
    return tuple(name for name in names if any(name in chosen for chosen in found.values()))


def _means(text: str, name: str) -> bool:
    if text == name:
        return True
    asked, held = _CELL.fullmatch(text), _CELL.fullmatch(name)
    if asked is None or held is None or asked["target"] != held["target"]:
        return False
    pairs = asked["pairs"]
    return pairs is None or set(pairs.replace(" ", "").split(",")) <= set((held["pairs"] or "").split(","))


def _check_labels(key: str, settings: Iterable[Setting]) -> None:
    seen: dict[str, Setting] = {}
    for setting in settings:
        if isinstance(setting.value, Mapping):
            raise RecipeError(f"matrix.{key}: a mapping cannot name a cell", where=setting.origin)
        text = label(setting.value)
        if not text or len(text) > LONGEST_LABEL:
            fix = f"values name cells, so they have 1 to {LONGEST_LABEL} letters"
            raise RecipeError(
                f"matrix.{key}: {setting.value!r} cannot name a cell", where=setting.origin, fix=fix
            )
        if text in seen:
            what = f"matrix.{key}: {setting.value!r} and {seen[text].value!r} would name the same cell"
            raise RecipeError(what, where=setting.origin, fix="take one of them out")
        seen[text] = setting
