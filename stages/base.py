"""The contract of a stage, and the registry that finds stages by name.

A stage is one function with typed parameters::

    @stage("quantize.rtn", params=RtnParams, inputs={"model": ("checkpoint",)}, output="quantized-checkpoint",
           version=1, determinism="bitwise", tools=("numpy",), summary="Round to nearest ...")
    def run(context: Context[RtnParams]) -> Result: ...

The module that defines a stage is imported while planning, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ..artifacts.entry_points import entry_points
from ..artifacts.errors import RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from ..artifacts.manifest import Artifact
    from ..artifacts.outbox import Outbox
    from .model.checkpoint import Checkpoint
    from .model.families import Architecture
    from .model.quantized import WeightSpec

P = TypeVar("P")
Determinism = Literal["bitwise", "seeded", "nondeterministic"]
Progress = Callable[[int, int, str], None]

ENTRY_POINTS = "ingot.stages"
# The artifact kinds that a runtime of `targets/runtimes/` opens as a session.
RUNNABLE = ("onnx", "aoti", "executorch", "torchscript", "tensorrt-engine")
# Those that a target delivers, and that something else runs; what measures them waits for that.
DELIVERED = ("packed-checkpoint",)

BUILTIN: Mapping[str, str] = {
    "load": "ingot.stages.load.stage",
    "load.adapter": "ingot.stages.load.adapter",
    "fuse.lora": "ingot.stages.fuse.lora",
    "fuse.extract_lora": "ingot.stages.fuse.extract_lora",
    "fuse.qkv": "ingot.stages.fuse.qkv",
    "fuse.norms": "ingot.stages.fuse.norms",
    "fuse.rotate": "ingot.stages.fuse.rotate",
    "merge": "ingot.stages.merge.stage",
    "merge.arcee_fusion": "ingot.stages.merge.methods.arcee_fusion",
    "merge.breadcrumbs": "ingot.stages.merge.methods.breadcrumbs",
    "merge.breadcrumbs_ties": "ingot.stages.merge.methods.breadcrumbs_ties",
    "merge.dare_linear": "ingot.stages.merge.methods.dare_linear",
    "merge.dare_ties": "ingot.stages.merge.methods.dare_ties",
    "merge.della": "ingot.stages.merge.methods.della",
    "merge.della_linear": "ingot.stages.merge.methods.della_linear",
    "merge.fisher": "ingot.stages.merge.methods.fisher",
    "merge.regmean": "ingot.stages.merge.methods.regmean",
    "merge.karcher": "ingot.stages.merge.methods.karcher",
    "merge.linear": "ingot.stages.merge.methods.linear",
    "merge.model_stock": "ingot.stages.merge.methods.model_stock",
    "merge.multislerp": "ingot.stages.merge.methods.multislerp",
    "merge.nearswap": "ingot.stages.merge.methods.nearswap",
    "merge.nuslerp": "ingot.stages.merge.methods.nuslerp",
    "merge.passthrough": "ingot.stages.merge.methods.passthrough",
    "merge.ram": "ingot.stages.merge.methods.ram",
    "merge.ramplus_tl": "ingot.stages.merge.methods.ramplus_tl",
    "merge.sce": "ingot.stages.merge.methods.sce",
    "merge.search": "ingot.stages.merge.search",
    "merge.slerp": "ingot.stages.merge.methods.slerp",
    "merge.task_arithmetic": "ingot.stages.merge.methods.task_arithmetic",
    "merge.ties": "ingot.stages.merge.methods.ties",
    "load.quantized": "ingot.stages.load.quantized",
    "distill": "ingot.stages.distill.stage",
    "finetune.full": "ingot.stages.finetune.full",
    "finetune.lora": "ingot.stages.finetune.lora",
    "prune.magnitude": "ingot.stages.prune.magnitude",
    "prune.gradual": "ingot.stages.prune.gradual",
    "prune.wanda": "ingot.stages.prune.wanda",
    "prune.sparsegpt": "ingot.stages.prune.sparsegpt",
    "factor.svd": "ingot.stages.factor.svd",
    "factor.svd_llm": "ingot.stages.factor.svd_llm",
    "share.layers": "ingot.stages.share.layers",
    "expand": "ingot.stages.expand",
    "prune.structured": "ingot.stages.prune.structured",
    "prune.layers": "ingot.stages.prune.layers",
    "quantize.rtn": "ingot.stages.quantize.rtn",
    "quantize.dynamic": "ingot.stages.quantize.dynamic",
    "quantize.gptq": "ingot.stages.quantize.gptq",
    "quantize.mixed": "ingot.stages.quantize.mixed",
    "quantize.qat": "ingot.stages.quantize.qat",
    "quantize.awq": "ingot.stages.quantize.awq",
    "quantize.static": "ingot.stages.quantize.static",
    "quantize.smoothquant": "ingot.stages.quantize.smoothquant",
    "quantize.nf4": "ingot.stages.quantize.nf4",
    "quantize.fp8": "ingot.stages.quantize.fp8",
    "dequantize": "ingot.stages.quantize.dequantize",
    "quantize.llmcompressor": "ingot.stages.quantize.llmcompressor",
    "quantize.gptqmodel": "ingot.stages.quantize.gptqmodel",
    "export.onnx": "ingot.stages.export.onnx.stage",
    "export.executorch": "ingot.stages.export.mobile.executorch",
    "export.onnx_mobile": "ingot.stages.export.onnx.mobile",
    "export.onnx_nvidia": "ingot.stages.export.onnx.nvidia",
    "export.torchscript_mobile": "ingot.stages.export.mobile.torchscript",
    "export.transformers": "ingot.stages.export.onnx.traced.stage",
    "export.aoti_cuda": "ingot.stages.export.aoti.stage",
    "export.tensorrt": "ingot.stages.export.tensorrt.stage",
    "export.checkpoint": "ingot.stages.export.checkpoint.stage",
    "validate.reference": "ingot.stages.validate.reference",
    "validate.quality": "ingot.stages.validate.quality",
    "validate.cost": "ingot.stages.validate.cost",
    "validate.emulated_arm": "ingot.stages.validate.emulated_arm",
}


@dataclass(frozen=True)
class Requirement:
    """Something a stage needs that may be missing here; ``fix`` is the command that brings it.

    is_device: a device, or what emulates one, which another machine may have: where it is missing, the stage
    is left out and its target ends `unverified`. Anything else that is missing is told before work begins.
    """

    name: str
    met: bool
    fix: str
    is_device: bool = False


@dataclass(frozen=True)
class Work:
    """What a node has to work on, as far as it is known before anything runs.

    parameters: of its model.  weight_bytes: of the source's weight files.  tokens: of the texts that it, or
    what it measures against, reads.  inputs: input name → artifact kind and bytes.  cores: at most so many.
    """

    parameters: int = 0
    weight_bytes: int = 0
    tokens: int = 0
    inputs: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    cores: int = 1

    @property
    def input_bytes(self) -> int:
        """The bytes of all inputs together."""
        return sum(size for _, size in self.inputs.values())


@dataclass(frozen=True)
class Estimate:
    """What a node takes. parallel: how many cores it keeps busy, where it may have them.

    memory_bytes: what it holds that the system cannot take back.  mapped_bytes: pages of files beside that.
    output_bytes: of its artifact.
    """

    cpu_seconds: float
    memory_bytes: int
    output_bytes: int
    mapped_bytes: int = 0
    parallel: int = 1


@dataclass(frozen=True)
class Result:
    """What a stage says of its output.

    facts: identity; deterministic, no time and no host (they enter the artifact's digest).  observed: what
    may differ between two equal runs (seconds a layer, say); kept in the action record.
    """

    facts: Mapping[str, object]
    observed: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A model that parameters name. name: a node of the recipe, a directory, or a name on the hub.

    adapters: what is folded into it first, in this order.  is_adapter: it is an adapter itself.
    origin: what names it, for messages, such as ``models[1].model``; it begins with the parameter's name.
    """

    name: str
    adapters: tuple[str, ...] = ()
    is_adapter: bool = False
    origin: str = ""

    @property
    def key(self) -> str:
        """The parameter that names it."""
        return self.origin.partition("[")[0].partition(".")[0]


@dataclass(frozen=True)
class Expansion:
    """What a stage makes of parameters that name models. values: the parameters with the names of inputs in
    place of models, so that no path gets into a key.  sources: input name → model.
    """

    values: Mapping[str, object]
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class Context(Generic[P]):
    """What a running stage is given.

    inputs: artifacts by input name.  output: where the payload is written.  job: a scratch directory that
    survives a kill and is found again by the next run of the same key.  progress(done, total, what).
    note(text): a remedy or a fallback that the report must state.
    """

    params: P
    inputs: Mapping[str, Artifact]
    output: Outbox
    job: Path
    seed: int
    threads: int
    progress: Progress
    note: Callable[[str], None]


@dataclass(frozen=True)
class Stage(Generic[P]):
    """A kind of step. ``inputs`` maps an input's name to the artifact kinds it takes.

    exclusive: it measures time, so nothing else may run beside it.  any_architecture: it also takes models
    outside the table of families.  same_function: its output computes what its only input does.
    takes_compact: it also takes models whose layers are factored or shared; makes_compact: it makes such.
    """

    name: str
    params: type[P]
    inputs: Mapping[str, tuple[str, ...]]
    output: str
    version: int
    determinism: Determinism
    tools: tuple[str, ...]
    summary: str
    run: Callable[[Context[P]], Result]
    module: str
    host_bound: bool = False
    requires: Callable[[P], tuple[Requirement, ...]] | None = None
    exclusive: bool = False
    reads: Callable[[P], Mapping[str, Path]] | None = None
    formats: Callable[[P, Architecture], Mapping[str, WeightSpec]] | None = None
    estimate: Callable[[P, Work], Estimate] | None = None
    any_architecture: bool = False
    accepts: Callable[[P, Mapping[str, WeightSpec], Architecture], None] | None = None
    versions: Callable[[P], Mapping[str, str | None]] | None = None
    many: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    expand: Callable[[Mapping[str, object], Path, str], Expansion] | None = None
    same_function: bool = False
    preflight: Callable[[P, Mapping[str, Path]], None] | None = None
    takes_compact: bool = False
    makes_compact: bool = False
    parameters: Callable[[P, Checkpoint], Collection[str] | None] | None = None

    def kinds_of(self, name: str) -> tuple[str, ...] | None:
        """The artifact kinds that the input called ``name`` takes; None for an input that there is not."""
        stem = name.rstrip("0123456789")
        return self.inputs.get(name) or (self.many.get(stem) if stem != name else None)


def stage(
    name: str,
    *,
    params: type[P],
    inputs: Mapping[str, tuple[str, ...]],
    output: str,
    version: int,
    determinism: Determinism,
    tools: tuple[str, ...],
    summary: str,
    host_bound: bool = False,
    requires: Callable[[P], tuple[Requirement, ...]] | None = None,
    exclusive: bool = False,
    reads: Callable[[P], Mapping[str, Path]] | None = None,
    formats: Callable[[P, Architecture], Mapping[str, WeightSpec]] | None = None,
    estimate: Callable[[P, Work], Estimate] | None = None,
    any_architecture: bool = False,
    accepts: Callable[[P, Mapping[str, WeightSpec], Architecture], None] | None = None,
    versions: Callable[[P], Mapping[str, str | None]] | None = None,
    many: Mapping[str, tuple[str, ...]] | None = None,
    expand: Callable[[Mapping[str, object], Path, str], Expansion] | None = None,
    same_function: bool = False,
    preflight: Callable[[P, Mapping[str, Path]], None] | None = None,
    takes_compact: bool = False,
    makes_compact: bool = False,
    parameters: Callable[[P, Checkpoint], Collection[str] | None] | None = None,
) -> Callable[[Callable[[Context[P]], Result]], Stage[P]]:
    """Makes a :class:`Stage` of the function below it.

    tools: distributions whose versions enter the key.  host_bound: the output depends on this very machine,
    so the host's fingerprint enters the key.  requires: what must be present, asked at plan time.
    exclusive: it measures time, so the scheduler runs nothing else beside it.  reads: files that it takes
    beside its inputs and its file parameters, by a name that is the same everywhere; their content and those
    names enter the key.  formats: how a stage that quantizes would store which weights, from headers alone.
    estimate: what it takes on an ordinary machine, until past runs tell; the built-in ones: `estimates/`.
    any_architecture: it also takes models outside the table of families, whose layers nothing here knows.
    accepts: raises InputError for quantized weights that it does not take, asked where formats are known
    before anything runs.
    versions: of what it runs outside this environment, by name, None for what is missing; they enter the key
    as those of `tools` do.
    many: inputs of which there may be any number, by the stem of their names: ``model`` → model1, model2 ...
    expand: parameters as they were written, the directory that relative paths start at, and the node before →
    the parameters with models replaced by names of inputs, and what those inputs are; see :class:`Expansion`.
    same_function: its output computes what its only input does, but for the order of sums.
    preflight: its parameters, and input name → directory of a checkpoint, asked at plan time where all inputs
    are at hand; raises InputError for inputs that will not do, from their headers, configs and tokenizers.
    takes_compact, makes_compact: see :class:`Stage` and `model/families/compact.py`.
    parameters: of a stage that trains, what all that may train is called, from its parameters and the headers
    of the checkpoint that comes in, or of one with its names and more; None where these do not tell.
    """

    def wrap(function: Callable[[Context[P]], Result]) -> Stage[P]:
        return Stage(
            name, params, inputs, output, version, determinism, tools, summary, function,
            function.__module__, host_bound, requires, exclusive, reads, formats, estimate,
            any_architecture, accepts, versions, many or {}, expand, same_function, preflight,
            takes_compact, makes_compact, parameters,
        )  # fmt: skip

    return wrap


def _defined(name: str, module: str) -> Stage[Any] | None:
    values = vars(importlib.import_module(module)).values()
    return next((each for each in values if isinstance(each, Stage) and each.name == name), None)


def names() -> tuple[str, ...]:
    """The names of all stages, built in and registered by entry points (group `ingot.stages`)."""
    return tuple(sorted({*BUILTIN, *(point.name for point in entry_points(ENTRY_POINTS))}))


def get(name: str, module: str | None = None) -> Stage[Any]:
    """The stage called ``name``; raises RecipeError with the nearest name when there is none.

    module: where it is known to be defined, so that nobody has to search all that is installed.
    """
    if name in BUILTIN:
        # Planning asks for the stage of every node many times over, and importing again is slow.
        found = (sys.modules.get(BUILTIN[name]) or importlib.import_module(BUILTIN[name])).run
    elif module is not None and (defined := _defined(name, module)):
        found = defined
    else:
        points = {point.name: point for point in entry_points(ENTRY_POINTS)}
        if name not in points:
            guess = nearest(name, names())
            fix = f"did you mean {guess}?" if guess else f"stages are {', '.join(names())}"
            raise RecipeError(f"there is no stage {name!r}", fix=fix)
        found = points[name].load()
    if not isinstance(found, Stage) or found.name != name:
        raise RecipeError(f"stage {name!r} is registered, but its module does not define it")
    return found
