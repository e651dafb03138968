"""`export.tensorrt`: an engine for each graph of `export.onnx_nvidia`, by TensorRT or TensorRT-RTX."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import InputError, RequirementError
from ....artifacts.schema import param
from ....targets.gpu import probe
from ....targets.libraries import NONE, RTX_SM, TENSORRT, TENSORRT_RTX, tensorrt_library, version_of
from ....targets.runtimes.engine_about import ENGINE_SCHEMA, FORMAT
from ....targets.runtimes.onnx_about import DESCRIPTION
from ...base import Context, Estimate, Requirement, Result, Work, stage

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO = "auto"
ENGINE_FILE = "engine.json"
# What stays behind of the graphs' artifact, which the engine replaces.
GRAPHS = (".onnx", ".data")


@dataclass(frozen=True)
class TensorrtParams:
    """Parameters of `export.tensorrt`."""

    library: str = param(
        AUTO,
        choices=(AUTO, TENSORRT, TENSORRT_RTX),
        doc="what builds: tensorrt, for the GPU of this machine, or tensorrt_rtx, for any that it knows and "
        "without one; auto is tensorrt where all of it is installed, else tensorrt_rtx; neither "
        "runs the other's engines",
    )
    sm: int | None = param(
        None,
        minimum=50,
        doc="compute capability of the GPU times ten, 89 for 8.9; none lets tensorrt_rtx build for every "
        "one from 8.0 on that it knows, and is the GPU of this machine for tensorrt",
    )
    strip_weights: bool = param(
        False,
        doc="leave the weights out, for a program that refits them from the graph; false, since an engine "
        "that is shipped alone needs them. It takes a GPU to build",
    )
    timing_cache: str | None = param(
        None,
        is_file=True,
        doc="what an earlier build measured, its timing.cache, so that kernels need not be timed again; for "
        "tensorrt, since tensorrt_rtx chooses kernels where the engine runs",
    )
    optimization_level: int = param(
        3, minimum=0, maximum=5, doc="how long tensorrt looks for faster kernels; 3, its own default"
    )


def library_of(params: TensorrtParams) -> str:
    """The library that builds; `none` where it is not installed."""
    found = tensorrt_library()
    if params.library == AUTO:
        return found
    is_here = found == params.library or (params.library == TENSORRT_RTX and version_of(TENSORRT_RTX))
    return params.library if is_here else NONE


def requirements(params: TensorrtParams) -> tuple[Requirement, ...]:
    """The library, and what it cannot do for the compute capability that is asked for, or without a GPU."""
    library = library_of(params)
    wanted = TENSORRT_RTX if params.library == AUTO else params.library
    fix = (
        "pip install 'ingot[nvidia]'" if wanted == TENSORRT_RTX else "install the whole of TensorRT: tensorrt"
    )
    found = [Requirement(f"{wanted}, which builds engines", library != NONE, fix)]
    has_gpu = bool(probe())
    if (wanted if library == NONE else library) == TENSORRT_RTX:
        known = params.sm is None or params.sm in RTX_SM
        listed = ", ".join(map(str, RTX_SM))
        found.append(
            Requirement(
                f"a TensorRT-RTX for SM {params.sm}", known,
                f"it builds for SM {listed}; deliver ONNX or aoti_cuda, or install the whole of TensorRT",
            )
        )  # fmt: skip
        if params.strip_weights:
            found.append(
                Requirement(
                    "a GPU, which TensorRT-RTX strips weights with",
                    has_gpu,
                    "set export.strip_weights: false",
                )
            )
    elif library == TENSORRT:
        fitting = any(params.sm in (None, int(gpu.sm)) for gpu in probe())
        name = f"a GPU of SM {params.sm}" if params.sm else "a GPU"
        fix = "build on the machine that runs the engine, or set export.library: tensorrt_rtx"
        found.append(Requirement(f"{name}, for which tensorrt builds", fitting, fix))
    return tuple(found)


def versions(params: TensorrtParams) -> Mapping[str, str | None]:
    """The library that builds, whose engines no other version runs."""
    library = library_of(params)
    return {library: version_of(library)} if library != NONE else {TENSORRT_RTX: None}


def estimate(_params: TensorrtParams, work: Work) -> Estimate:
    """Kernels are generated for a graph, then its weights are copied: the library, and the weights thrice."""
    held = 700_000_000 + 3 * work.input_bytes
    return Estimate(5 + 2e-8 * work.input_bytes, held, int(1.5 * work.input_bytes) + 4_000_000)


@stage(
    "export.tensorrt",
    params=TensorrtParams,
    inputs={"model": ("onnx",)},
    output=FORMAT,
    version=1,
    determinism="nondeterministic",
    tools=(),
    summary="Engines of TensorRT or TensorRT-RTX, for ranges of shapes, with or without a GPU",
    requires=requirements,
    versions=versions,
    estimate=estimate,
    takes_compact=True,
)
def run(context: Context[TensorrtParams]) -> Result:
    """Writes NAME.engine for each graph NAME.onnx, engine.json, and what else the artifact holds.

    Raises InputError for graphs that were not written for TensorRT, StageError with the nodes that it does
    not take, and RequirementError where the library, or the GPU that it needs, is missing.
    """
    from .engine import Plan, build

    params, source = context.params, context.inputs["model"]
    for requirement in requirements(params):
        if not requirement.met:
            raise RequirementError(f"the export needs {requirement.name}", fix=requirement.fix)
    about = json.loads((source.path / DESCRIPTION).read_text("utf-8"))
    if "profiles" not in about:
        raise InputError(
            "the graph has no profiles of shapes",
            where=str(source.path),
            fix="make it with export.onnx_nvidia",
        )
    shapes = json.loads((source.path / str(about["profiles"])).read_text("utf-8"))["graphs"]
    library = library_of(params)
    cache = Path(params.timing_cache).read_bytes() if params.timing_cache else b""
    engines: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for number, (name, profiles) in enumerate(sorted(shapes.items())):
        context.progress(number, len(shapes), f"building {name}")
        plan = Plan(library, profiles, params.sm, params.strip_weights, params.optimization_level, cache)
        built = build(source.path / name, plan)
        cache, seconds[name] = built.timing_cache, round(built.seconds, 1)
        file = f"{Path(name).stem}.engine"
        with context.output.create(file) as sink:
            sink.write(built.engine)
        engines[name] = {"file": file, **built.about}
    if library == TENSORRT:
        with context.output.create("timing.cache") as sink:
            sink.write(cache)
    document = {
        "schema": ENGINE_SCHEMA,
        "library": library,
        "library_version": version_of(library),
        "sm": params.sm,
        "weights_stripped": params.strip_weights,
        "engines": engines,
    }
    context.output.write_json(ENGINE_FILE, document)
    _copy(source.path, context)
    context.output.write_json(
        DESCRIPTION,
        {
            **about,
            "format": FORMAT,
            "engine": ENGINE_FILE,
            "requires": {library: version_of(library)},
        },
    )
    facts = {**source.facts, "requires": {library: version_of(library)}, "engine": document}
    return Result(facts=facts, observed={"build_seconds": seconds})


def _copy(directory: Path, context: Context[TensorrtParams]) -> None:
    """Tokenizer, configs and profiles as they are."""
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.suffix not in GRAPHS and path.name != DESCRIPTION:
            with path.open("rb") as stream, context.output.create(path.name) as sink:
                shutil.copyfileobj(stream, sink)
