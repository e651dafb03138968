"""Layered settings: who gave which value, and who has the last word.

From weakest to strongest: a stage's own defaults, the target's profile (its rules in order), the recipe's
`stages`, `measure` and `gates`, the recipe's `targets.<name>`, the environment, the command line. In the last
two, a value for one target beats a value for all of them.

A `backend` beside a method asks for another library's own: its stage runs, and the method is its algorithm.

A setting's path is a section and a name, ``("quantize", "bits")``, or for gates ``("gates", metric, rule)``.
In the environment it is written `INGOT_SET__QUANTIZE__BITS=4`, for one target
`INGOT_SET__QUANTIZE_AT_CPU_INT8__BITS=4`; on the command line `--set quantize.bits=4`, for one target
`--set quantize@cpu-int8.bits=4`. Any other variable named `INGOT_…` that Ingot does not know is refused: a
misspelt one would be dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..artifacts.errors import RecipeError, nearest
from ..artifacts.yaml import parse_yaml, scalar
from ..targets.rules import Setting
from .metrics import ALIASES

PREFIX = "INGOT_SET__"
VARIABLES = ("INGOT_STORE", "INGOT_FAULT")
METHOD = "method"
BACKEND, ALGORITHM = "backend", "algorithm"
# The interpreter that runs another library's stage.
PYTHON = "python"
NONE = "none"
GATES = "gates"

Settings = Mapping[tuple[str, ...], Setting]

_SET = re.compile(r"(?P<section>[\w-]+)(?:@(?P<target>[^.=]+))?\.(?P<name>[\w.]+)=(?P<value>.+)", re.DOTALL)


@dataclass(frozen=True)
class Override:
    """A setting from outside the recipe. target: as it was written, None for all of them."""

    source: Literal["environment", "command line"]
    setting: Setting
    target: str | None


def command_line(texts: Iterable[str]) -> tuple[Override, ...]:
    """The overrides of `--set node.param=value` options; raises RecipeError for another shape."""
    return tuple(_parse_set(text) for text in texts)


def environment(variables: Mapping[str, str]) -> tuple[Override, ...]:
    """The overrides among environment variables; raises RecipeError for an unknown variable `INGOT_…`."""
    overrides = []
    for name in sorted(variables):
        if name.startswith(PREFIX):
            overrides.append(_parse_variable(name, variables[name]))
        elif name.startswith("INGOT_") and name not in VARIABLES:
            guess = nearest(name, VARIABLES)
            known = f"known are {', '.join(VARIABLES)} and {PREFIX}<NODE>__<PARAM>"
            fix = f"did you mean {guess}?" if guess else known
            raise RecipeError(f"the environment variable {name} is not a known one", fix=fix)
    return tuple(overrides)


def outer_layers(overrides: Sequence[Override], target: str | None) -> list[list[Setting]]:
    """The layers above the recipe, weakest first, for one target; for None, what holds for every target."""
    layers = []
    for source in ("environment", "command line"):
        own = [override for override in overrides if override.source == source]
        layers.append([o.setting for o in own if o.target is None])
        if target is not None:
            layers.append([o.setting for o in own if o.target is not None and names_target(o.target, target)])
    return layers


def names_target(written: str, target: str) -> bool:
    """Whether ``written`` names ``target``, as it is or as in the environment."""
    return written in (target, environment_name(target))


def environment_name(target: str) -> str:
    """How a target is called inside a variable's name: `cpu-int8` is `CPU_INT8`."""
    return re.sub(r"[^A-Z0-9]", "_", target.upper())


def resolve(layers: Iterable[Sequence[Setting]]) -> dict[tuple[str, ...], Setting]:
    """The settings that hold, from layers given weakest first; within a layer a later setting wins.

    A layer that names another `method` of a section drops what weaker layers said of that section: their
    parameters belong to another stage. ``gates: {metric: none}`` drops the weaker gates on that metric.
    ``{method: gptq, backend: llmcompressor}`` is another library's stage with `algorithm: gptq`.
    """
    held: dict[tuple[str, ...], Setting] = {}
    for layer in layers:
        for setting in layer:
            path = setting.path
            if path[1] == METHOD and path in held and held[path].value != setting.value:
                held = {other: kept for other, kept in held.items() if other[0] != path[0]}
        for setting in layer:
            path = _canonical(setting.path)
            if path[0] == GATES and len(path) == 2:
                held = {other: kept for other, kept in held.items() if other[:2] != path}
            else:
                held[path] = setting
    return _through_backends(held)


def _through_backends(held: dict[tuple[str, ...], Setting]) -> dict[tuple[str, ...], Setting]:
    """The settings with the stage of each `backend` in place of its section's method."""
    for name in [path[0] for path in held if path[0] != GATES and path[1:] == (BACKEND,)]:
        method, algorithm, backend = (name, METHOD), (name, ALGORITHM), (name, BACKEND)
        if method not in held or held[method].value == NONE:
            continue
        if algorithm in held:
            what = f"{name}.{ALGORITHM} and {name}.{METHOD} both say what the backend is to run"
            raise RecipeError(what, where=held[algorithm].origin, fix=f"take {ALGORITHM} out")
        held[algorithm] = replace(held[method], path=algorithm)
        held[method] = replace(held.pop(backend), path=method)
    return held


def section(settings: Settings, name: str) -> dict[str, Setting]:
    """The settings of one section by name, without its method."""
    return {path[1]: kept for path, kept in settings.items() if path[0] == name and path[1] != METHOD}


def _canonical(path: tuple[str, ...]) -> tuple[str, ...]:
    """``path`` with a metric's own name, so that `size` and `size_bytes` are one."""
    return (GATES, ALIASES.get(path[1], path[1]), *path[2:]) if path[0] == GATES else path


def _parse_set(text: str) -> Override:
    origin = f"--set {text}"
    match = _SET.fullmatch(text)
    if match is None:
        fix = "write --set node.param=value, such as quantize.bits=4 or quantize@cpu.bits=4"
        raise RecipeError(f"{text!r} is not a setting", where="--set", fix=fix)
    path = (match["section"], *match["name"].split("."))
    setting = _setting(path, match["value"], origin)
    return Override("command line", setting, match["target"])


def _parse_variable(name: str, text: str) -> Override:
    node, *rest = name.removeprefix(PREFIX).split("__")
    section, at, target = node.partition("_AT_")
    path = tuple(part.lower() for part in (section, *rest))
    return Override("environment", _setting(path, text, name), target if at else None)


def _setting(path: tuple[str, ...], text: str, origin: str) -> Setting:
    """A setting, when its path has the parts that its section takes.

    The value is written as in a recipe: a list or mapping in brackets, else a number, truth value or text.
    """
    is_gate = path[0] == GATES
    lengths = (2, 3) if is_gate else (2,)
    if len(path) not in lengths or not all(path):
        fix = "gates.<metric>.<rule>=value" if is_gate else f"{path[0] or 'node'}.<param>=value"
        raise RecipeError(f"{'.'.join(path)!r} does not name a setting", where=origin, fix=f"write {fix}")
    value = parse_yaml(text, origin).value if text.startswith(("[", "{")) else scalar(text)
    if is_gate and len(path) == 2 and value != NONE:
        fix = f"write {'.'.join(path)}.<rule>=value, or {'.'.join(path)}={NONE}"
        raise RecipeError(f"{value!r} is not a gate", where=origin, fix=fix)
    return Setting(path, value, origin)
