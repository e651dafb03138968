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

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..artifacts.digest import digest_json
from ..artifacts.errors import RecipeError, nearest
from ..artifacts.schema import build, param, unknown_name
from ..artifacts.yaml import KeyPath, Written, read_yaml
from ..stages.load.hub import HUB_NAME
from ..targets import profile as profiles
from ..targets.profile import MEASURE_SECTIONS, STAGE_SECTIONS
from ..targets.rules import Setting
from .data import Data, check_overlap, read_data
from .layers import Override
from .sections import gate_settings, stage_settings, tree_settings

DEFAULT_TARGET = "cpu"
LATER_KEYS = ("matrix",)
TARGET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class RecipeFields:
    """The top level of a recipe as it is written."""

    model: str = param(doc="name a local checkpoint directory, or org/name@revision")
    targets: object = param(
        None, doc="profiles to build for: a list, or a mapping with changes; cpu by default"
    )
    data: Mapping[str, object] | None = param(None, doc="text files by their use")
    stages: Mapping[str, object] | None = param(
        None, doc="steps in the order they run, shared by all targets"
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
class TargetFields:
    """One target's changes as they are written."""

    profile: str | None = param(None, doc="the profile, when the target's name is not one")
    quantize: object = param(None, doc="a method, or a mapping of its parameters")
    export: object = param(None, doc="a method, or a mapping of its parameters")
    measure: Mapping[str, object] | None = param(None, doc="parameters of reference, quality and cost")
    gates: Mapping[str, object] | None = param(None, doc="what this target's artifact is held to")


@dataclass(frozen=True)
class Target:
    """One thing to build. profile: a profile's name, or its file's absolute path; origin: where written."""

    name: str
    profile: str
    settings: tuple[Setting, ...]
    origin: str


@dataclass(frozen=True)
class Recipe:
    """What a person asked for. settings: those for every target; shared: families of shared stages, in order.

    model: an absolute path, or a name on the hub.  origins: where model, reference, seed ... were written.
    digest: of what was written, for the manifest.
    """

    model: str
    targets: tuple[Target, ...]
    settings: tuple[Setting, ...] = ()
    shared: tuple[str, ...] = ()
    data: Data = field(default_factory=Data)
    reference: str = "load"
    seed: int = 0
    out: Path | None = None
    overrides: tuple[Override, ...] = ()
    source: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


def load_recipe(path: Path, overrides: Sequence[Override] = ()) -> Recipe:
    """The recipe in a YAML file; overrides: see `layers.py`.

    Raises RecipeError for what is written wrong, DataError for texts that cannot be used.
    """
    if path.is_dir():
        raise RecipeError(
            f"{path} is a directory, not a recipe",
            fix=f"a checkpoint needs no recipe: --model {path} --target {DEFAULT_TARGET}",
        )
    return read_recipe(read_yaml(path, str(path)), path.absolute().parent, overrides)


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
    for key in LATER_KEYS:
        if key in written.value:
            raise RecipeError(f"{key} is not built yet", where=written.where(key), fix="take it out")
    fields = build(RecipeFields, written.value, locate=written.where)
    shared = tuple(name for name in fields.stages or {} if name not in STAGE_SECTIONS)
    settings = (
        *stage_settings(fields.stages or {}, written),
        *tree_settings(fields.measure or {}, written, ("measure",), MEASURE_SECTIONS),
        *gate_settings(fields.gates or {}, written, ("gates",)),
    )
    if fields.base is not None:
        raise RecipeError(
            f"base: {fields.base!r} is not used by any stage of this recipe",
            where=written.where("base"),
            fix="a base belongs to a merge; take it out",
        )
    data = read_data(fields.data or {}, written, directory)
    check_overlap(data)
    return Recipe(
        model=_model(fields.model, written, directory),
        targets=tuple(_targets(fields.targets, written, directory)),
        settings=settings,
        shared=shared,
        data=data,
        reference=_reference(fields.reference, shared, written),
        seed=fields.seed,
        out=directory / fields.out if fields.out is not None else None,
        overrides=tuple(overrides),
        source=written.source,
        origins={name: written.where(name) for name in written.value},
        digest=digest_json({
            "recipe": written.value,
            "overrides": [[o.setting.path, o.target, o.setting.value] for o in overrides],
        }),
    )  # fmt: skip


def _model(name: str, written: Written, directory: Path) -> str:
    """The absolute path of a local checkpoint, or the name on the hub as it is."""
    path = (directory / Path(name).expanduser()).absolute()
    if path.is_dir():
        return str(path)
    if HUB_NAME.fullmatch(name) and not path.exists():
        return name
    what = "is not a directory" if path.exists() else "does not exist"
    sibling = nearest(path.name, [each.name for each in path.parent.glob("*")])
    fix = f"did you mean {path.parent / sibling}?" if sibling and not path.exists() else None
    raise RecipeError(
        f"model: {name!r} {what}",
        where=written.where("model"),
        fix=fix
        or "name a directory with config.json, tokenizer and safetensors, or org/name@revision on the hub",
    )


def _reference(name: str | None, shared: Sequence[str], written: Written) -> str:
    if name is not None and name not in ("load", *shared):
        raise unknown_name(name, ("load", *shared), prefix="reference", where=written.where("reference"))
    return name or "load"


def _targets(value: object, written: Written, directory: Path) -> Iterator[Target]:
    """The targets of a list or a mapping, each with its profile and its changes."""
    where = written.where("targets")
    if value is None:
        value = [DEFAULT_TARGET]
    if not isinstance(value, list | dict) or not value:
        raise RecipeError(f"targets: {value!r} is not a list or a mapping of targets", where=where)
    seen: dict[str, str] = {}
    for index, name in enumerate(value):
        place: KeyPath = ("targets", index if isinstance(value, list) else name)
        if not isinstance(name, str):
            raise RecipeError(f"targets: {name!r} is not the name of a target", where=written.where(*place))
        changes = value[name] if isinstance(value, dict) else None
        target = _target(name, changes, written, place, directory)
        if target.name in seen:
            what = f"targets: {target.name!r} is listed twice (first in {seen[target.name]})"
            raise RecipeError(what, where=target.origin, fix="give one another name: {NAME: {profile: ...}}")
        seen[target.name] = target.origin
        yield target


def _target(key: str, changes: object, written: Written, place: KeyPath, directory: Path) -> Target:
    origin = written.where(*place)
    if changes is not None and not isinstance(changes, dict):
        raise RecipeError(f"targets.{key}: {changes!r} is not a mapping of changes", where=origin)

    def locate(name: str) -> str:
        return written.where(*place, name)

    fields = build(TargetFields, changes or {}, prefix=f"targets.{key}", locate=locate)
    profile = fields.profile or key
    if profiles.is_path(profile):
        profile = str((directory / profile).absolute())
    name = Path(key).stem if profiles.is_path(key) else key
    if not TARGET_NAME.fullmatch(name) or name == "reference":
        fix = "write {NAME: {profile: PATH}} with a name of small letters, digits, - and _"
        raise RecipeError(f"targets: {name!r} cannot be the name of a target", where=origin, fix=fix)
    profiles.get(profile, where=locate("profile")).require_built(where=origin)
    sections = {name: changes[name] for name in STAGE_SECTIONS if changes and name in changes}
    settings = (
        *stage_settings(sections, written, place),
        *tree_settings(fields.measure or {}, written, (*place, "measure"), MEASURE_SECTIONS),
        *gate_settings(fields.gates or {}, written, (*place, "gates")),
    )
    return Target(name, profile, settings, origin)
