"""One ONNX file to one engine: the network, its profiles, the builder, and what went wrong in plain words.

The API is that of TensorRT 10 and of TensorRT-RTX, which share it (NVIDIA TensorRT, Python API). Networks are
strongly typed: the graph's own dtypes are what is computed in.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import StageError
from ....targets.libraries import TENSORRT_RTX
from ....targets.runtimes.engine_file import dtype_name, new_log

if TYPE_CHECKING:
    from pathlib import Path

MOST_NAMED = 5


@dataclass(frozen=True)
class Plan:
    """How an engine is built.

    library: the module that builds.  profiles: see `onnx/profiles.py`.  sm: compute capability times ten,
    None for what the library takes.  cache: a timing cache, may be empty.
    """

    library: str
    profiles: Sequence[Mapping[str, Any]]
    sm: int | None = None
    strip_weights: bool = False
    optimization_level: int = 3
    cache: bytes = b""


@dataclass(frozen=True)
class Built:
    """engine: serialized.  about: of its inputs, outputs and profiles.  timing_cache: what was measured.

    seconds: that building took.
    """

    engine: bytes
    about: dict[str, Any]
    timing_cache: bytes
    seconds: float


@dataclass(frozen=True)
class Refused:
    """What the parser says of a node."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node or 'a node'} ({self.operator}): {self.reason}"


def build(path: Path, plan: Plan) -> Built:
    """The engine of an ONNX file.

    Raises StageError with the nodes that the parser refuses, or with the builder's own errors.
    """
    trt = importlib.import_module(plan.library)
    log = new_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        raise parse_error(path.name, plan.library, refused(parser))
    config = builder.create_builder_config()
    cache = _configure(trt, config, plan)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for profile in plan.profiles:
        _add_profile(builder, config, profile, inputs)
    started = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reasons = "; ".join(dict.fromkeys(log.errors)) or "it gave no reason"
        raise StageError(f"{plan.library} builds no engine of {path.name}: {reasons}", fix=_advice(reasons))
    about = {
        "inputs": {tensor.name: dtype_name(tensor.dtype) for tensor in inputs},
        "outputs": [network.get_output(index).name for index in range(network.num_outputs)],
        "profiles": [str(profile["name"]) for profile in plan.profiles],
        "layers": network.num_layers,
    }
    measured = bytes(cache.serialize()) if cache is not None else b""
    return Built(bytes(engine), about, measured, time.monotonic() - started)


def refused(parser: Any) -> list[Refused]:
    """Every node that a parser found fault with, once."""
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        reason = str(error.desc()).strip().splitlines()[0] if str(error.desc()).strip() else "not supported"
        found.append(Refused(str(error.node_name()), str(error.node_operator()), _plain(reason)))
    return list(dict.fromkeys(found))


def parse_error(file: str, library: str, nodes: Sequence[Refused]) -> StageError:
    """The error for a graph that a parser does not take, with the first of its nodes by name."""
    named = "; ".join(map(str, nodes[:MOST_NAMED])) or "the file cannot be read"
    more = f"; and {len(nodes) - MOST_NAMED} more" if len(nodes) > MOST_NAMED else ""
    operators = sorted({node.operator for node in nodes if node.operator})
    fix = "make the graph with export.onnx_nvidia, which holds it to TensorRT's rules"
    if operators:
        fix = f"{fix}; or deliver what needs {', '.join(operators)} through another runtime"
    return StageError(f"{library} does not take {file}: {named}{more}", fix=fix)


def _plain(reason: str) -> str:
    """A parser's reason without the C++ that states it: ``Assertion failed: x == 1: words`` is ``words``."""
    head, _, words = reason.partition("Assertion failed: ")
    if head or not words:
        return reason
    return words.partition(": ")[2].strip() or words


def _advice(reasons: str) -> str:
    if "HW-specific datatypes" in reasons:
        return "quantize to a width that the GPU computes with, or target a later one"
    if "dedicated kernel" in reasons:
        return "set export.dtype: float16 or bfloat16"
    return "read the stage's log, which holds all that the library says"


def _configure(trt: Any, config: Any, plan: Plan) -> Any:
    """Sets what the plan asks for; gives the timing cache, None where the library has no use for one."""
    if plan.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT)
    if plan.library == TENSORRT_RTX:
        if plan.sm is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{plan.sm}"), 0)
        return None
    config.builder_optimization_level = plan.optimization_level
    cache = config.create_timing_cache(plan.cache)
    config.set_timing_cache(cache, False)
    return cache


def _add_profile(builder: Any, config: Any, profile: Mapping[str, Any], inputs: Sequence[Any]) -> None:
    shapes = profile["inputs"]
    made = builder.create_optimization_profile()
    for tensor in inputs:
        if -1 not in tuple(tensor.shape):
            continue
        if tensor.name not in shapes:
            raise StageError(f"profile {profile['name']} gives no sizes for {tensor.name}")
        made.set_shape(tensor.name, *(tuple(shapes[tensor.name][size]) for size in ("min", "opt", "max")))
    config.add_optimization_profile(made)
