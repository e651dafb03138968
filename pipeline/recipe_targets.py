"""`targets:` of a recipe: a list of profiles, or a mapping to what each target changes and takes.

    targets:
      cpu-int8:                                    # a profile as it is
      phone: {profile: arm-mobile, from: small}    # from: the node that it takes, not the last checkpoint
      cpu: {quantize: {method: rtn, bits: 4}, gates: {size: {max: 60MB}}, matrix: {export.opset: [23, 24]}}

A target's name is that of its delivery's directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..artifacts.schema import build, param
from ..targets import profile as profiles
from ..targets.profile import DELIVERS, MEASURE_SECTIONS, STAGE_SECTIONS
from ..targets.rules import Setting
from .matrix import MATRIX, Axis, read_matrix
from .sections import gate_settings, tree_settings
from .steps import FROM, NAME, require_node, section_settings

if TYPE_CHECKING:
    from ..artifacts.yaml import KeyPath, Written

DEFAULT_TARGET = "cpu"


@dataclass(frozen=True)
class TargetFields:
    """One target's changes as they are written."""

    profile: str | None = param(None, doc="the profile, when the target's name is not one")
    takes: str | None = param(
        None,
        written=FROM,
        doc="the node whose output it runs, or goes on from; the last checkpoint by default",
    )
    quantize: object = param(None, doc="a method, or a mapping of its parameters")
    export: object = param(None, doc="a method, or a mapping of its parameters")
    measure: Mapping[str, object] | None = param(None, doc="parameters of reference, quality and cost")
    gates: Mapping[str, object] | None = param(None, doc="what this target's artifact is held to")
    delivers: Mapping[str, object] | None = param(
        None, doc="artifacts beside its own: name → export method, or a mapping with its parameters, or none"
    )
    matrix: Mapping[str, object] | None = param(
        None, doc="node.parameter → values: a leaf of this target for each"
    )


@dataclass(frozen=True)
class Target:
    """One thing to build. profile: a profile's name, or its file's absolute path; origin: where written.

    takes: the node it goes on from, None for the last checkpoint; place: where that was written.
    via: settings of the export whose output this one's own export takes, where it takes no checkpoint.
    """

    name: str
    profile: str
    settings: tuple[Setting, ...]
    origin: str
    takes: str | None = None
    place: str = ""
    matrix: tuple[Axis, ...] = ()
    via: tuple[Setting, ...] = ()


def read_targets(
    value: object, written: Written, directory: Path, nodes: Sequence[str]
) -> tuple[Target, ...]:
    """The targets of a list or a mapping, in written order; nodes: the recipe's own, and `load`.

    directory: where relative paths of profiles start. Raises RecipeError for unknown profiles, keys and
    nodes, and for names that are taken or cannot be directories; RequirementError for planned profiles.
    """
    where = written.where("targets")
    if value is None:
        value = [DEFAULT_TARGET]
    if not isinstance(value, list | dict) or not value:
        raise RecipeError(f"targets: {value!r} is not a list or a mapping of targets", where=where)
    return tuple(_targets(value, written, directory, nodes))


def _targets(
    value: list[object] | dict[str, object], written: Written, directory: Path, nodes: Sequence[str]
) -> Iterator[Target]:
    seen: dict[str, str] = {}
    for index, name in enumerate(value):
        place: KeyPath = ("targets", index if isinstance(value, list) else str(name))
        if not isinstance(name, str):
            raise RecipeError(f"targets: {name!r} is not the name of a target", where=written.where(*place))
        changes = value[name] if isinstance(value, dict) else None
        target = _target(name, changes, written, place, directory, nodes)
        if target.name in seen:
            what = f"targets: {target.name!r} is listed twice (first in {seen[target.name]})"
            raise RecipeError(what, where=target.origin, fix="give one another name: {NAME: {profile: ...}}")
        seen[target.name] = target.origin
        yield target


def _target(
    key: str, changes: object, written: Written, place: KeyPath, directory: Path, nodes: Sequence[str]
) -> Target:
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
    if not NAME.fullmatch(name) or name == "reference":
        fix = "write {NAME: {profile: PATH}} with a name of small letters, digits, - and _"
        raise RecipeError(f"targets: {name!r} cannot be the name of a target", where=origin, fix=fix)
    profiles.get(profile, where=locate("profile")).require_built(where=origin)
    if fields.takes is not None:
        require_node(fields.takes, nodes, f"targets.{key}.{FROM}", locate(FROM))
    sections = {name: changes[name] for name in STAGE_SECTIONS if changes and name in changes}
    settings = (
        *section_settings(sections, written, place),
        *tree_settings(fields.measure or {}, written, (*place, "measure"), MEASURE_SECTIONS),
        *gate_settings(fields.gates or {}, written, (*place, "gates")),
        *(
            Setting((DELIVERS, name), value, written.where(*place, DELIVERS, name))
            for name, value in (fields.delivers or {}).items()
        ),
    )
    axes = read_matrix(fields.matrix or {}, written, (*place, MATRIX), nodes)
    return Target(name, profile, settings, origin, fields.takes, locate(FROM), axes)
