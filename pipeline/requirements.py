"""What a run needs of this machine, checked before any work: libraries in their ranges, disk, memory."""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
from typing import TYPE_CHECKING, Any

from ..artifacts.errors import RequirementError
from ..stages import base
from ..stages.base import Requirement
from .keys import installed_version
from .sources import HOME
from .units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ..targets.host import Host
    from .graph import Graph, Leaf, Node

PIP = "pip install "
# Bytes a parameter in an output, by its kind: float32 graphs, and 8-bit codes with their scales.
FLOAT32_BYTES = 4
CODES_BYTES = 1.25
# What log-probabilities and measurements take at least; how much more depends on the evaluation text.
OTHER_OUTPUT_BYTES = 1 << 20
# What Python with torch or a runtime holds before it has any weights.
PROCESS_BYTES = 512 << 20
# Outputs whose making holds all weights in float32 at once, in torch or in the target's runtime.
WHOLE_IN_MEMORY = ("logits", "measurements")


def of_node(node: Node) -> tuple[Requirement, ...]:
    """What a node's stage needs and does not find here: its libraries, and what it asks for itself."""
    stage = base.get(node.stage)
    libraries = (_library(name, _range(stage, name)) for name in stage.tools)
    own = stage.requires(node.params) if stage.requires is not None else ()
    return tuple(each for each in (*libraries, *own) if not each.met)


def of_leaf(leaf: Leaf) -> tuple[Requirement, ...]:
    """The libraries whose versions here are not those of the target, so that measuring would mislead."""
    libraries = (_library(name, versions) for name, versions in leaf.requires.items())
    return tuple(each for each in libraries if not each.met)


def of_machine(graph: Graph, waiting: Iterable[Node], root: Path, host: Host) -> tuple[Requirement, ...]:
    """The disk space and the memory that the ``waiting`` nodes need and this machine lacks.

    root: the store's directory.  Both are lower bounds from the source's headers: a run that passes may still
    meet a full disk, one that fails here would certainly have.
    """
    nodes = tuple(waiting)
    found = [_disk(graph, nodes, shutil.disk_usage(root).free)] if nodes else []
    kinds = {base.get(node.stage).output for node in nodes}
    if not kinds.isdisjoint(WHOLE_IN_MEMORY):
        found.append(_memory(graph.facts, host.memory_bytes))
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


@functools.cache
def _library(name: str, wanted: str) -> Requirement:
    """That a distribution is installed in the wanted range; an empty range takes any version."""
    from packaging.specifiers import SpecifierSet

    version = installed_version(name)
    fix = f"{PIP}'{name}{wanted}'"
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
        for text in importlib.metadata.requires(distribution) or ():
            declared = Declared(text)
            found[_normal(declared.name)] = str(declared.specifier)
    return found


def _normal(name: str) -> str:
    """A distribution's name as the packaging standard compares them."""
    return name.lower().replace("_", "-").replace(".", "-")


def _disk(graph: Graph, nodes: Iterable[Node], free_bytes: int) -> Requirement:
    needed = sum(output_bytes(graph, node) for node in nodes)
    name = f"{show_bytes(needed)} of disk space for the store ({show_bytes(free_bytes)} are free)"
    fix = "free some with `ingot gc --max-size`, or name a larger disk with --store"
    return Requirement(name, needed <= free_bytes, fix)


def output_bytes(graph: Graph, node: Node) -> int:
    """About how many bytes a node's output takes, from the source's headers."""
    parameters = _number(graph.facts, "parameters")
    kind = base.get(node.stage).output
    if kind == "checkpoint":
        return _number(graph.facts, "weight_bytes")
    if kind == "quantized-checkpoint":
        return int(CODES_BYTES * parameters)
    if kind == "onnx":
        sources = (base.get(graph.nodes[name].stage).output for name in node.inputs.values())
        return int((CODES_BYTES if "quantized-checkpoint" in sources else FLOAT32_BYTES) * parameters)
    return OTHER_OUTPUT_BYTES


def _memory(facts: Mapping[str, object], memory_bytes: int) -> Requirement:
    needed = FLOAT32_BYTES * _number(facts, "parameters") + PROCESS_BYTES
    name = f"{show_bytes(needed)} of memory to measure in float32 ({show_bytes(memory_bytes)} are here)"
    return Requirement(name, needed <= memory_bytes, "use a machine with more memory")


def _number(facts: Mapping[str, object], name: str) -> int:
    value = facts.get(name, 0)
    return value if isinstance(value, int) else 0
