"""Target profiles: what a kind of device runs, which stages and parameters suit it, and what it is held to.

A profile is a YAML file: built in (`profiles/`), registered by an entry point of the group `ingot.targets`
(whose value is the file's path), or named by its path in a recipe::

    summary: the edge box in the shop        # one line
    extends: cpu-int8                        # everything that is not said here comes from there
    status: built                            # or planned: known by name, not built yet
    runtime: onnx
    stages:  {quantize: {lm_head_bits: 16}, export: {}}
    measure: {reference: {}, quality: {}, cost: {repeats: 5}}
    rules:                                   # after stages, first to last; each that holds overrides
      - {when: {parameters_above: 3.0e9}, set: {quantize: {method: rtn}}, because: decoding is memory bound}
    gates:                                   # the same, once the weights' width is known
      - {when: {weights: int8}, set: {perplexity: {max_increase: 2%}}, because: int8 costs less}
    delivers: {packed: checkpoint}           # beside what export makes: leaf → method, see pipeline/leaves.py
    accepts: {quantize: [dynamic], weights: [int8]}
    limits:  {onnxruntime: ">=1.26", opset: [17, 23], ir_version: [8, 11]}     # see limits.py
    verify:  {batch: [1, 8], sequence: [128], places: {onnx: [host]}}

A file's own `stages` and `rules` come after those of the profile that it extends. Stages are named by strings
here; `pipeline/assemble.py` turns them into nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from ..artifacts.entry_points import entry_points
from ..artifacts.errors import RecipeError, RequirementError, nearest
from ..artifacts.schema import build, param, unknown_name
from ..artifacts.yaml import Written, read_yaml
from .demands import check_places
from .limits import PLACES, Accepts, Limits, Verify
from .rules import CONDITIONS, GATE_CONDITIONS, Facts, Rule, Setting, holds, read_rules, read_settings

Rules = tuple[Rule, ...]

PROFILES = Path(__file__).parent / "profiles"
ENTRY_POINTS = "ingot.targets"
STAGE_SECTIONS = ("quantize", "export")
MEASURE_SECTIONS = ("reference", "quality", "cost", "emulated")
SECTIONS = (*STAGE_SECTIONS, *MEASURE_SECTIONS)
# What a target ships beside its own artifact: a name → the method that exports it, or a mapping with one.
DELIVERS = "delivers"


T = TypeVar("T", Limits, Accepts, Verify)


@dataclass(frozen=True)
class Profile:
    """A target profile with everything that it extends folded in. choices, gates: rules, first to last."""

    name: str
    summary: str
    status: Literal["built", "planned"]
    runtime: str
    choices: Rules = ()
    gates: Rules = ()
    limits: Limits = field(default_factory=Limits)
    accepts: Accepts = field(default_factory=Accepts)
    verify: Verify = field(default_factory=Verify)

    def chosen(self, facts: Facts) -> Rules:
        """The choices that hold for a source and a host; a later one overrides an earlier one."""
        return tuple(rule for rule in self.choices if holds(rule, facts))

    def default_gates(self, facts: Facts) -> Rules:
        """The gates that hold for a source, a host and ``facts["weights"]``."""
        return tuple(rule for rule in self.gates if holds(rule, facts))

    def require_built(self, where: str | None = None) -> None:
        """Raises RequirementError when the target is known by name only."""
        if self.status == "planned":
            built = ", ".join(name for name in names() if get(name).status == "built")
            raise RequirementError(
                f"the target {self.name} is not built yet", where=where, fix=f"targets that are: {built}"
            )


def names() -> tuple[str, ...]:
    """The names of all profiles, built in or registered by entry points."""
    builtin = (path.stem for path in PROFILES.glob("*.yaml"))
    return tuple(sorted({*builtin, *(point.name for point in entry_points(ENTRY_POINTS))}))


def is_path(name: str) -> bool:
    """Whether a target is named by a file rather than by a profile's name."""
    return name.endswith((".yaml", ".yml"))


def get(name: str, where: str | None = None) -> Profile:
    """The profile of that name, or in the file of that path.

    where: where the name was written.  Raises RecipeError with the nearest name or the faulty line.
    """
    return _load(_find(name, where), ())


def _find(name: str, where: str | None) -> Path:
    if is_path(name):
        return Path(name)
    path = PROFILES / f"{name}.yaml"
    if "/" not in name and path.is_file():
        return path
    for point in entry_points(ENTRY_POINTS):
        if point.name == name:
            return Path(point.load())
    guess = nearest(name, names())
    fix = (
        f"did you mean {guess}?" if guess else f"targets are {', '.join(names())}, or a path to a .yaml file"
    )
    raise RecipeError(f"there is no target {name!r}", where=where, fix=fix)


@dataclass(frozen=True)
class ProfileFields:
    """The top level of a profile as it is written."""

    summary: str = param(doc="say in one line what the target is")
    extends: str | None = param(None, doc="the profile that this one changes")
    status: str = param("built", choices=("built", "planned"), doc="planned: known by name, not built yet")
    runtime: str | None = param(None, doc="what opens the artifact, such as onnx")
    stages: Mapping[str, object] | None = param(None, doc="parameters of quantize and export")
    measure: Mapping[str, object] | None = param(None, doc="parameters of reference, quality and cost")
    rules: tuple[Mapping[str, object], ...] = param((), doc="choices under a condition")
    gates: tuple[Mapping[str, object], ...] = param((), doc="default gates under a condition")
    delivers: Mapping[str, object] | None = param(None, doc="artifacts beside its own: name → export method")
    accepts: Mapping[str, object] | None = param(None, doc="what may be asked of the target")
    limits: Mapping[str, object] | None = param(None, doc="what the target's device and runtime load")
    verify: Mapping[str, object] | None = param(None, doc="sizes that are validated, and where")


@functools.cache
def _load(path: Path, children: tuple[Path, ...]) -> Profile:
    """The profile in ``path``. children: the files that extend it, so that a circle is found."""
    source = path.name if path.parent == PROFILES else str(path)
    written = read_yaml(path, source)
    if not isinstance(written.value, dict):
        raise RecipeError("a profile is a mapping of names to values", where=source)
    fields = build(ProfileFields, written.value, locate=written.where)
    parent = _parent(path, fields.extends, children, written)
    runtime = fields.runtime or (parent.runtime if parent else None)
    if runtime is None:
        raise RecipeError("runtime is missing", where=source, fix="name one, such as onnx, or extend another")
    choices, gates = _rules(fields, written, path.stem)
    verify = _folded(Verify, parent.verify if parent else None, fields.verify, "verify", written)
    for word in check_places(verify):
        raise unknown_name(word, PLACES, prefix="verify.places", where=written.where("verify", "places"))
    return Profile(
        name=path.stem,
        summary=fields.summary,
        status="planned" if fields.status == "planned" else "built",
        runtime=runtime,
        choices=(*(parent.choices if parent else ()), *choices),
        gates=(*(parent.gates if parent else ()), *gates),
        limits=_folded(Limits, parent.limits if parent else None, fields.limits, "limits", written),
        accepts=_folded(Accepts, parent.accepts if parent else None, fields.accepts, "accepts", written),
        verify=verify,
    )


def _parent(path: Path, extends: str | None, children: tuple[Path, ...], written: Written) -> Profile | None:
    if extends is None:
        return None
    where = written.where("extends")
    above = path.parent / extends if is_path(extends) else _find(extends, where)
    if above in (path, *children):
        raise RecipeError(f"the profile {path.stem} extends itself", where=where)
    return _load(above, (path, *children))


def _rules(fields: ProfileFields, written: Written, profile: str) -> tuple[Rules, Rules]:
    """The choices and the gates of one file."""
    stages = tuple(read_settings(written, ("stages",), fields.stages or {}, (), profile))
    measure = tuple(read_settings(written, ("measure",), fields.measure or {}, (), profile))
    rules = tuple(read_rules(written, "rules", fields.rules, CONDITIONS, profile))
    _check_sections(stages, STAGE_SECTIONS)
    _check_sections(measure, MEASURE_SECTIONS)
    for rule in rules:
        _check_sections(rule.settings, (*SECTIONS, DELIVERS))
    ships = tuple(_delivered(fields.delivers, written, profile))
    plain = (Rule({}, (*stages, *measure, *ships)),) if stages or measure or ships else ()
    return (*plain, *rules), tuple(read_rules(written, "gates", fields.gates, GATE_CONDITIONS, profile))


def _delivered(tree: Mapping[str, object] | None, written: Written, profile: str) -> Iterator[Setting]:
    yield from read_settings(written, (), {DELIVERS: tree or {}}, (), profile)


def _check_sections(settings: Iterable[Setting], valid: Sequence[str]) -> None:
    for setting in settings:
        if setting.path[0] not in valid:
            raise unknown_name(setting.path[0], valid, prefix="", where=setting.origin)


def _folded(
    cls: type[T], above: T | None, values: Mapping[str, object] | None, key: str, written: Written
) -> T:
    """A ``cls`` from what this file says over what the profile above it says."""
    own = build(cls, values or {}, prefix=key, locate=lambda name: written.where(key, name))
    said = {name: getattr(own, name) for name in values or {}}
    return replace(above, **said) if above is not None else own
