"""The recipe: what a person wrote, typed and checked against the disk before anything is planned.

    model: ./checkpoints/my-llama             # local directory, or org/name@revision
    targets: [cpu-int8, cpu-int4]             # or {cpu: {quantize: {method: rtn, bits: 4}}}
    data: {calibration: a.txt, evaluation: b.txt}
    stages: {quantize: {method: rtn, bits: 8}}
    measure: {cost: {repeats: 9}}
    gates: {perplexity: {max_increase: 2%}, size: {max: 60MB}}

Relative paths start at the recipe's folder. Every error names the file, the line, the key, the value, and the
nearest name that would have been right; nothing that was written is dropped in silence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from ..artifacts.digest import digest_json
from ..artifacts.errors import RecipeError
from ..artifacts.schema import build, param, unknown_name
from ..artifacts.yaml import Written, read_yaml
from ..targets.profile import MEASURE_SECTIONS
from ..targets.rules import Setting
from .data import Data, check_overlap, read_data, with_texts
from .layers import PYTHON, Override
from .locate_model import find_model
from .matrix import MATRIX, Axis, read_matrix
from .mergekit import is_mergekit, recipe_values
from .models import with_models
from .recipe_targets import DEFAULT_TARGET, Target, read_targets
from .sections import gate_settings, tree_settings
from .steps import LOAD, Step, read_steps


@dataclass(frozen=True)
class RecipeFields:
    """The top level of a recipe as it is written."""

    model: str = param(doc="name a local checkpoint directory, or org/name@revision")
    targets: object = param(
        None, doc="profiles to build for: a list, or a mapping with changes; cpu by default"
    )
    data: Mapping[str, object] | None = param(None, doc="text files by their use")
    stages: Mapping[str, object] | None = param(
        None, doc="steps in the order they run, or a graph of named nodes, shared by all targets"
    )
    matrix: Mapping[str, object] | None = param(
        None, doc="node.parameter → values: every target has a leaf for each"
    )
    measure: Mapping[str, object] | None = param(None, doc="parameters of reference, quality and cost")
    gates: Mapping[str, object] | None = param(
        None, doc="what the artifact is held to: metric → rule → limit"
    )
    base: str | None = param(None, doc="the merge base, when it is not the model")
    reference: str | None = param(
        None, doc="the stage whose checkpoint is the quality reference; load by default"
    )
    seed: int = param(
        0, minimum=0, maximum=2**63 - 1, doc="the seed of all that is random; fixed, so runs repeat"
    )
    out: str | None = param(None, doc="the folder that deliveries are written to")


@dataclass(frozen=True)
class Recipe:
    """What a person asked for. settings: those for every target.  steps: the shared nodes, in an order in
    which they can run.  matrix: the axes for every target.

    model: an absolute path, or a name on the hub.  origins: where model, reference, seed ... were written.
    digest: of what was written, for the manifest.
    """

    model: str
    targets: tuple[Target, ...]
    settings: tuple[Setting, ...] = ()
    steps: tuple[Step, ...] = ()
    matrix: tuple[Axis, ...] = ()
    data: Data = field(default_factory=Data)
    reference: str = "load"
    seed: int = 0
    out: Path | None = None
    overrides: tuple[Override, ...] = ()
    source: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


def load_recipe(
    path: Path, overrides: Sequence[Override] = (), beside: Mapping[str, object] = MappingProxyType({})
) -> Recipe:
    """The recipe in a YAML file; overrides: see `layers.py`.

    beside: keys of a recipe that were given with it, where a mergekit file stands in its place, which has no
    room for them; relative paths among them start at the working directory.

    Raises RecipeError for what is written wrong and for keys beside a recipe, DataError for texts that cannot
    be used.
    """
    if path.is_dir():
        raise RecipeError(
            f"{path} is a directory, not a recipe",
            fix=f"a checkpoint needs no recipe: --model {path} --target {DEFAULT_TARGET}",
        )
    written = read_yaml(path, str(path))
    if is_mergekit(written):
        written = recipe_values(written, path, beside)
    elif beside:
        name, value = next(iter(beside.items()))
        named = f"{name} ({', '.join(value)})" if isinstance(value, Mapping) else name
        fix = "write it into the recipe, or use --set"
        raise RecipeError(f"{named} was given beside a recipe", fix=fix)
    return read_recipe(written, path.absolute().parent, overrides)


def recipe_from_options(
    model: str,
    targets: Sequence[str] = (),
    *,
    data: Mapping[str, str] | None = None,
    seed: int = 0,
    overrides: Sequence[Override] = (),
) -> Recipe:
    """The recipe of a command line without a file; relative paths start at the working directory."""
    value: dict[str, object] = {"model": model, "seed": seed}
    if targets:
        value["targets"] = list(targets)
    if data:
        value["data"] = dict(data)
    return read_recipe(Written(value, "command line"), Path.cwd(), overrides)


def read_recipe(written: Written, directory: Path, overrides: Sequence[Override] = ()) -> Recipe:
    """The recipe in a YAML document whose relative paths start at ``directory``."""
    if not isinstance(written.value, dict):
        raise RecipeError(
            "a recipe is a mapping of names to values", where=written.source, fix="begin with model:"
        )
    fields = build(RecipeFields, written.value, locate=written.where)
    steps, staged = read_steps(fields.stages or {}, written)
    nodes = (LOAD, *(step.name for step in steps))
    matrix = read_matrix(fields.matrix or {}, written, (MATRIX,), nodes)
    merge_base = None if fields.base is None else (fields.base, written.where("base"))
    steps, staged = with_models(steps, staged, matrix, overrides, directory, merge_base)
    data = read_data(fields.data or {}, written, directory)
    check_overlap(data)
    staged = with_texts(staged, data, directory)
    settings = (
        *_with_programs(_with_models(staged, steps, directory), directory),
        *tree_settings(fields.measure or {}, written, ("measure",), MEASURE_SECTIONS),
        *gate_settings(fields.gates or {}, written, ("gates",)),
    )
    return Recipe(
        model=find_model(fields.model, directory, "model", written.where("model")),
        targets=tuple(
            replace(target, settings=_with_programs(target.settings, directory))
            for target in read_targets(fields.targets, written, directory, nodes)
        ),
        settings=settings,
        steps=steps,
        matrix=matrix,
        data=data,
        reference=_reference(fields.reference, nodes, written),
        seed=fields.seed,
        out=directory / fields.out if fields.out is not None else None,
        overrides=tuple(
            replace(each, setting=with_texts(_with_programs([each.setting], Path.cwd()), data, Path.cwd())[0])
            for each in overrides
        ),
        source=written.source,
        origins={name: written.where(name) for name in written.value},
        digest=digest_json({
            "recipe": written.value,
            "overrides": [[o.setting.path, o.target, o.setting.value] for o in overrides],
        }),
    )  # fmt: skip


def _with_models(settings: Iterable[Setting], steps: Iterable[Step], directory: Path) -> Iterator[Setting]:
    """The settings with the checkpoints of further `load` nodes found, as the recipe's `model` is."""
    loads = {step.name for step in steps if step.family == LOAD}
    for setting in settings:
        name, key = setting.path
        if name in loads and key == "model":
            found = find_model(str(setting.value), directory, f"stages.{name}.params.model", setting.origin)
            yield replace(setting, value=found)
        else:
            yield setting


def _with_programs(settings: Iterable[Setting], directory: Path) -> tuple[Setting, ...]:
    """The settings with the interpreters of other environments found, whose relative paths start there."""
    return tuple(
        replace(setting, value=os.path.normpath(directory / Path(setting.value).expanduser()))
        if setting.path[1:] == (PYTHON,) and isinstance(setting.value, str) and setting.value
        else setting
        for setting in settings
    )


def _reference(name: str | None, nodes: Sequence[str], written: Written) -> str:
    if name is not None and name not in nodes:
        raise unknown_name(name, nodes, prefix="reference", where=written.where("reference"))
    return name or LOAD
