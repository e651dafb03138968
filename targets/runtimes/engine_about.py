"""`ingot.json` and `engine.json` of an artifact of kind `tensorrt-engine`, read with care.

    engine.json  {"schema": "ingot/engine/v1", "library": "tensorrt_rtx", "library_version": "1.7.1",
                  "sm": 89, "weights_stripped": false, "engines": {"model.onnx": {"file": "model.engine"}}}

sm: compute capability times ten, null for all that the library builds for, or the GPU of the builder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError, RequirementError
from ...artifacts.strict_json import parse_object
from ..libraries import RTX_SM, TENSORRT, TENSORRT_RTX, version_of
from . import onnx_about

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..gpu import Gpu

FORMAT, ENGINE_SCHEMA = "tensorrt-engine", "ingot/engine/v1"
FILE_NAME = re.compile(r"[\w.-]{1,64}\.(json|engine)")
GRAPH_NAME = re.compile(r"[\w.-]{1,64}\.onnx")
# What the names of a library's modules are to a person.
TITLES = {TENSORRT: "TensorRT", TENSORRT_RTX: "TensorRT-RTX"}


@dataclass(frozen=True)
class EngineAbout:
    """What an artifact says. session: its `ingot.json`.  files: graph's name → its engine's file.

    library: the module that built the engines, and version its version.  sm: see above.
    """

    session: Mapping[str, Any]
    library: str
    version: str
    sm: int | None
    files: Mapping[str, str]

    @property
    def title(self) -> str:
        """The library as a person names it, with its version."""
        return f"{TITLES[self.library]} {self.version}"


def read_about(path: Path) -> EngineAbout:
    """What the two files in a directory say.

    Raises InputError when they describe no engines, or say anything that cannot be, and for engines whose
    weights were left out, which only a program that refits them runs.
    """
    about = onnx_about.read_about(path, FORMAT)
    name = about.get("engine")
    place = path / str(name)
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name) or not place.is_file():
        raise InputError("ingot.json names no file that describes its engines", where=str(path))
    data = place.read_bytes() if place.stat().st_size <= onnx_about.MOST_BYTES else b""
    try:
        found: dict[str, Any] = parse_object(data)
    except ValueError as error:
        raise InputError(f"{name} {error}", where=str(place)) from None
    engines, sm = found.get("engines"), found.get("sm")
    checks = {
        "schema": found.get("schema") == ENGINE_SCHEMA,
        "library": found.get("library") in TITLES,
        "library_version": isinstance(found.get("library_version"), str),
        "sm": sm is None or (type(sm) is int and 50 <= sm < 1000),
        "weights_stripped": type(found.get("weights_stripped")) is bool,
        "engines": isinstance(engines, dict) and bool(engines) and all(map(_is_entry, engines.items())),
    }
    for key, valid in checks.items():
        if not valid:
            what = f"{name}: {key} is {str(found.get(key))[:80]!r}, which cannot be"
            raise InputError(what, where=str(place), fix="build the delivery again")
    if found["weights_stripped"]:
        raise InputError(
            "the engine has no weights in it",
            where=str(path),
            fix="refit it from its graph in a program of your own, or build it with strip_weights: false",
        )
    files = {str(graph): str(entry["file"]) for graph, entry in found["engines"].items()}
    return EngineAbout(about, str(found["library"]), str(found["library_version"]), sm, files)


def check_machine(about: EngineAbout, gpus: Sequence[Gpu]) -> None:
    """Raises RequirementError where the engines cannot run here: another library or version, another GPU."""
    here = version_of(about.library)
    if here != about.version:
        distribution = about.library.replace("_", "-")
        raise RequirementError(
            f"the engine was built by {about.title}, "
            + (f"and here is {here}" if here else "which is not installed here"),
            fix=f"pip install {distribution}=={about.version}, or build the target again here",
        )
    if not gpus:
        return
    sm = int(gpus[0].sm)
    if about.sm not in (None, sm):
        raise RequirementError(
            f"the engine was built for SM {about.sm}, this GPU is SM {sm}",
            fix=f"run it on its GPU, or build the target nvidia-sm{sm}",
        )
    if about.library == TENSORRT_RTX and sm not in RTX_SM:
        raise RequirementError(
            f"TensorRT-RTX runs on no GPU of SM {sm}",
            fix=f"run it on one of SM {', '.join(map(str, RTX_SM))}",
        )


def _is_entry(item: tuple[object, object]) -> bool:
    graph, entry = item
    return (
        isinstance(graph, str)
        and GRAPH_NAME.fullmatch(graph) is not None
        and isinstance(entry, dict)
        and FILE_NAME.fullmatch(str(entry.get("file"))) is not None
    )
