"""What a run needs of this machine, checked before any work: libraries, a GPU, disk, memory."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import shutil
from typing import TYPE_CHECKING, Any

from ..artifacts import schema
from ..artifacts.errors import RequirementError
from ..stages import base
from ..stages.base import Requirement
from ..targets.libraries import EXTRAS
from .keys import installed_version
from .sources import HOME
from .units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from .graph import Leaf, Node
    from .predict import Prediction

PIP, CUDA, AUTO = "pip install ", "cuda", "auto"


def of_node(node: Node) -> tuple[Requirement, ...]:
    """What a node needs and does not find here: its stage's libraries in their ranges, the GPU that its
    parameters ask for, and what the stage asks for itself.
    """
    stage = base.get(node.stage)
    libraries = (_library(name, _range(stage, name)) for name in stage.tools)
    own = stage.requires(node.params) if stage.requires is not None else ()
    return tuple(each for each in (*libraries, *_computing(node), *own) if not each.met)


def of_leaf(leaf: Leaf) -> tuple[Requirement, ...]:
    """The libraries whose versions here are not those of the target, so that measuring would mislead."""
    libraries = (_library(name, versions) for name, versions in leaf.requires.items())
    return tuple(each for each in libraries if not each.met)


def of_room(expected: Mapping[str, Prediction], root: Path, memory_bytes: int) -> tuple[Requirement, ...]:
    """The disk space and the memory that nodes will need and that are not free.

    expected: by node.  root: the store's directory.  memory_bytes: what a node may hold.
    """
    if not expected:
        return ()
    free_bytes = shutil.disk_usage(root).free
    needed = sum(each.output_bytes for each in expected.values())
    name = f"{show_bytes(needed)} of disk space for the store ({show_bytes(free_bytes)} are free)"
    fix = "free some with `ingot gc --max-size`, or name a larger disk with --store"
    found = [Requirement(name, needed <= free_bytes, fix)]
    largest = max(expected, key=lambda node: expected[node].held_bytes)
    held, basis = expected[largest].held_bytes, expected[largest].basis
    name = f"{show_bytes(held)} of memory for {largest} ({basis}; {show_bytes(memory_bytes)} are free)"
    found.append(Requirement(name, held <= memory_bytes, "free memory, use a larger machine, or try --force"))
    return tuple(each for each in found if not each.met)


def raise_missing(missing: Iterable[Requirement]) -> None:
    """Raises one RequirementError that names everything missing and the commands that bring it."""
    unmet = list(dict.fromkeys(missing))
    if not unmet:
        return
    packages = [each.fix.removeprefix(PIP) for each in unmet if each.fix.startswith(PIP)]
    others = [each.fix for each in unmet if not each.fix.startswith(PIP)]
    install = [PIP + " ".join(dict.fromkeys(packages))] if packages else []
    what = "this machine lacks " + ", ".join(each.name for each in unmet)
    raise RequirementError(what, fix="; ".join([*install, *dict.fromkeys(others)]))


def _computing(node: Node) -> Iterator[Requirement]:
    """What computing on a GPU takes, of a stage that is told to."""
    field = schema.fields(type(node.params)).get("device")
    # Where a stage can choose it is where the stage computes; others tell where their output will run.
    if field is None or AUTO not in (field.metadata["choices"] or ()):
        return
    if getattr(node.params, "device", None) == CUDA:
        from ..targets.runtimes.program import cuda_needs

        asked = node.origins.get("device", node.name)
        for name, met, fix in cuda_needs():
            yield Requirement(f"{name} (device: {CUDA}, {asked})", met, f"{fix}, or write device: {AUTO}")


@functools.cache
def _library(name: str, wanted: str) -> Requirement:
    """That a distribution is installed in the wanted range; an empty range takes any version."""
    from packaging.specifiers import SpecifierSet

    version = installed_version(name)
    extra = EXTRAS.get(_normal(name))
    fix = f"{PIP}'{HOME}[{extra}]'" if extra else f"{PIP}'{name}{wanted}'"
    if version is None:
        return Requirement(f"{name} {wanted}".strip(), False, fix)
    met = SpecifierSet(wanted).contains(version, prereleases=True)
    return Requirement(f"{name} {wanted} (found {version})", met, fix)


def _range(stage: base.Stage[Any], tool: str) -> str:
    """The versions of ``tool`` that the distribution which holds the stage declares."""
    return _declared(stage.module.partition(".")[0]).get(_normal(tool), "")


@functools.cache
def _declared(package: str) -> Mapping[str, str]:
    """Version ranges by distribution name, from the metadata of the distribution that holds ``package``.

    Empty for a package that no distribution holds, such as a folder on the path: it declares no ranges.
    """
    from packaging.requirements import Requirement as Declared

    found: dict[str, str] = {}
    holders = [HOME] if package == HOME else importlib.metadata.packages_distributions().get(package, [])
    for distribution in holders:
        # A source tree on the path is ingot too, without metadata.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for text in importlib.metadata.requires(distribution) or ():
                declared = Declared(text)
                found[_normal(declared.name)] = str(declared.specifier)
    return found


def _normal(name: str) -> str:
    """A distribution's name as the packaging standard compares them."""
    return name.lower().replace("_", "-").replace(".", "-")
