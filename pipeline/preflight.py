"""What can be refused before anything runs: inputs that will not do, from their headers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.errors import InputError, IntakeError
from ..stages import base
from ..stages.model.checkpoint import CONFIG_FILE
from .data import ROLES
from .parameters import place
from .steps import LOAD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..artifacts.manifest import Artifact
    from .graph import Graph, Node


def check_inputs(node: Node, graph: Graph, made: Mapping[str, Artifact | None]) -> None:
    """Raises InputError for inputs that a stage cannot take, where all of them are at hand.

    made: the artifact of each node that has one already. A checkpoint that is still to be loaded from a
    directory here, in safetensors, is at hand too.
    """
    check = base.get(node.stage).preflight
    if check is None:
        return
    directories: dict[str, Path] = {}
    for name, source in node.inputs.items():
        artifact, other = made[source], graph.nodes[source]
        directory = artifact.path if artifact else _directory(other)
        if directory is None:
            return
        directories[name] = directory
    try:
        check(node.params, directories)
    except InputError as error:
        if isinstance(error, IntakeError) and None in [made[source] for source in node.inputs.values()]:
            return  # loading comes first, and says more of a checkpoint that cannot be read
        what = error.what if error.what.startswith(f"{node.name}.") else f"{node.name}: {error.what}"
        written = {name: origin for name, origin in node.origins.items() if name not in ROLES}
        raise type(error)(what, where=error.where or place(error.what, written), fix=error.fix) from error


def _directory(node: Node) -> Path | None:
    model = getattr(node.params, "model", None) if node.stage == LOAD else None
    if not isinstance(model, str):
        return None
    directory = Path(model)
    return directory if (directory / CONFIG_FILE).is_file() and any(directory.glob("*.safetensors")) else None
