"""What the stages of other libraries share: their parameters, and a checkpoint taken there and back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import RecipeError
from ....artifacts.schema import param
from ..calibrated import TextWeightParams
from ..formats import GROUP_SIZES, choose
from .interpreter import Library, requirements, versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...base import Context, Result
    from ...model.families import Architecture
    from ...model.quantized import WeightFormat, WeightSpec

TASK = "causal-lm"
MADE = "made.safetensors"


@dataclass(frozen=True)
class ForeignParams(TextWeightParams):
    """Parameters that all of these stages have; output head and embedding are rounded by Ingot."""

    python: str = param(
        "",
        doc="the interpreter of an environment that has the library, such as ./env/bin/python; the versions "
        "there enter the key, the path does not",
        in_key=False,
    )
    group_size: int = param(
        128,
        choices=GROUP_SIZES,
        doc="input features that share a scale, 0 for a whole row; 128 is the libraries' own default",
    )
    desc_act: bool = param(
        True, doc="columns in falling order of activation, groups left in place; it costs nothing at run time"
    )
    damp_percent: float | None = param(
        None,
        minimum=0.0,
        maximum=1.0,
        doc="share of the mean Hessian diagonal that is added to it; the library's own default",
    )
    compute_dtype: str = param(
        "auto",
        choices=("auto", "float32", "bfloat16"),
        doc="what the library loads the model in; auto is bfloat16 where the processor has it in hardware, "
        "else float32, which is many times faster there",
    )


def hooks(library: Library) -> dict[str, Any]:
    """What a stage that runs the library says while planning (see :func:`stage`)."""
    return {
        "requires": lambda params: requirements(library, params.python),
        "versions": lambda params: versions(library, params.python),
        "formats": formats,
    }


def formats(params: ForeignParams, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight that would be quantized is stored.

    Raises RecipeError for a model that the driver does not load, for patterns that match no weight, and for
    groups that do not divide a row.
    """
    if model.task != TASK:
        raise RecipeError(
            f"other libraries are run on models of the task {TASK}, and this is one of {model.task}",
            fix="use a method of Ingot's own, such as rtn",
        )
    found = choose(model, params.choice())
    for name, spec in asked_for(found, model).items():
        size = spec.format.group_size
        if size and spec.shape[1] % size:
            raise RecipeError(
                f"groups of {size} do not divide the {spec.shape[1]} input features of {name}",
                fix="choose another group_size, 0 for whole rows, or name the weight in ignore",
            )
    return found


def asked_for(specs: Mapping[str, WeightSpec], model: Architecture) -> dict[str, WeightSpec]:
    """Those weights that the library is to quantize: the linear maps of the layers."""
    layers = {linear.name for linear in model.linears if linear.layer is not None}
    return {name: spec for name, spec in specs.items() if name in layers}


def quantize(context: Context[Any], library: Library, algorithm: str) -> Result:
    """Has the library quantize the checkpoint `model`, and takes its codes into the one quantized form.

    Tensors that stay in floating point are the source's; AWQ moves scales into norms and linear maps, so
    those are the library's. Raises StageError where the library fails or does something else than it was
    asked, RecipeError as :func:`formats` does, DataError for a calibration text that cannot be used.
    """
    from ....artifacts.tensors import TensorSource
    from ...model.calibration.calibrate import choose_device, choose_dtype
    from ...model.calibration.samples import take
    from ...model.checkpoint import Checkpoint
    from ..rounding import Made, write
    from .child import ask
    from .harvest import Harvest

    params: ForeignParams = context.params
    source = Checkpoint.open(context.inputs["model"].path)
    model = source.architecture
    specs = formats(params, model)
    wanted = asked_for(specs, model)
    if not wanted:
        raise RecipeError("no linear weight would be quantized", fix="ignore less, or take another method")
    samples = take(Path(params.calibration), source.directory, model, params.window, params.samples)
    dtype = choose_dtype(params.compute_dtype, choose_device("auto"))
    request = {
        "library": library.name, "algorithm": algorithm, "model": str(source.directory),
        "formats": _by_format(wanted), "desc_act": params.desc_act, "damp_percent": params.damp_percent,
        "dtype": str(dtype).removeprefix("torch."), "seed": context.seed, "threads": context.threads,
        "skipped": [_module(each.name) for each in model.linears if each.name not in wanted],
        "samples": [ids for batch in samples.batches for ids in batch.ids.tolist()],
    }  # fmt: skip
    context.progress(0, len(wanted), library.name)
    answer = ask(params.python, context.job / "run", request)
    for note in answer.notes:
        context.note(note)
    harvest = Harvest(answer.checkpoint, source, wanted)
    taken = harvest.changed()
    if taken and algorithm != "awq":
        context.note(f"{library.name} changed {', '.join(taken)} unasked: the source's are kept")
        taken = []
    evidence = harvest.collect(context.job / MADE, taken)
    made = Made(
        TensorSource.open([context.job / MADE]),
        evidence,
        [{"kind": "awq", "tensors": taken}] if taken else (),
    )
    result = write(context, source, specs, "mse", f"{library.name}.{algorithm}", made)
    spent = {name: getattr(answer, name) for name in ("seconds", "cpu_seconds", "max_rss_bytes", "dtype")}
    return replace(result, observed={**result.observed, **spent})


def _by_format(specs: Mapping[str, WeightSpec]) -> list[dict[str, object]]:
    """The modules of each format, in the order in which formats first come up."""
    modules: dict[WeightFormat, list[str]] = defaultdict(list)
    for name, spec in specs.items():
        modules[spec.format].append(_module(name))
    return [
        {"bits": form.bits, "group_size": form.group_size, "sym": form.sym, "modules": names}
        for form, names in modules.items()
    ]


def _module(name: str) -> str:
    return name.removesuffix(".weight")
