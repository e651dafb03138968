"""`export.onnx_nvidia`: the same graphs as TensorRT takes them: half precision, with profiles of shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....artifacts.errors import InputError, RequirementError, StageError
from ....artifacts.schema import param
from ...base import Context, Requirement, Result, stage
from .params import FileParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...model.families import Architecture
    from ...model.quantized import WeightSpec

IR_VERSION = 11
SESSION_FILE = "ingot.json"


@dataclass(frozen=True)
class NvidiaParams(FileParams):
    """Parameters of `export.onnx_nvidia`."""

    dtype: str = param(
        "float16",
        choices=("float16", "bfloat16"),
        doc="what is computed in, beside quantized weights; float16, which has three bits more than "
        "bfloat16, runs on every GPU with tensor cores and on this machine too; bfloat16 for models whose "
        "activations overflow at 65504",
    )
    opset: int = param(23, choices=(23,), doc="ONNX operator set; the first with attention as an operator")
    sm: int | None = param(
        None,
        minimum=50,
        doc="compute capability of the GPU times ten, 89 for 8.9, whose rules the graph is held to; none "
        "asks for those that hold on every GPU alone",
    )
    batch: tuple[int, ...] = param(
        (1, 8), doc="sequences in a run: the first is tuned for, the largest is the most"
    )
    sequence: tuple[int, ...] = param(
        (128, 1024),
        doc="tokens of a prompt: the first is tuned for, the largest is the most, up to the model's context",
    )
    lacks: tuple[str, ...] = param(
        (), doc="operators beside those of the rules that the runtime does not have"
    )


def requirements(params: NvidiaParams) -> tuple[Requirement, ...]:
    """That the target's runtime takes the opset and the IR version, known before anything runs."""
    return params.loads(params.opset, IR_VERSION)


def accepts(params: NvidiaParams, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
    """Raises InputError, with the rule, for what TensorRT does not take, from headers alone."""
    from ....targets.demands import LOWEST_SM
    from ...model.families import Mixture

    if any(isinstance(layer.feed_forward, Mixture) for layer in model.layers):
        raise InputError(
            f"rule operator.missing: TensorRT has no NonZero, by which a {model.model_type} network routes",
            fix="deliver its checkpoint for vLLM or TensorRT-LLM: export: {method: checkpoint}",
        )
    for operator in sorted(needed(model) & set(params.lacks)):
        raise InputError(
            f"rule operator.missing: a {model.model_type} network needs {operator}, which the target's "
            "runtime lacks",
            fix="choose a target whose runtime has it",
        )
    for name, spec in weights.items():
        form = spec.format
        if form.numeric == "nf4":
            what = f"{name}: rule type.nf4: no operator expands nf4 weights"
            raise InputError(
                what, fix="quantize to int8, int4 or fp8, or deliver a checkpoint for bitsandbytes"
            )
        if not form.sym:
            what = f"{name}: rule quantize.zero_point: zero points are 0, and it is quantized with others"
            raise InputError(what, fix="set quantize.sym: true")
        element = "fp8" if form.numeric == "fp8_e4m3" else "int8" if form.bits == 8 else "int4"
        lowest = LOWEST_SM.get(element, 0)
        if params.sm is not None and params.sm < lowest:
            what = f"{name}: rule type.{element}: {element} needs SM {lowest}, and the GPU is SM {params.sm}"
            raise InputError(what, fix="quantize to int8, or target a later GPU")


def needed(model: Architecture) -> frozenset[str]:
    """Operators that the graph of a network will have, of those that runtimes are known to lack."""
    layers = (*model.layers, *(model.encoder.layers if model.encoder else ()))
    found = {"LayerNormalization" if model.norm == "layer" else "RMSNormalization"}
    if any(layer.attention.softcap is None for layer in layers):
        found.add("Attention")
    if any(layer.attention.softcap is not None for layer in layers):
        found |= {"Softmax", "Tanh"}
    if model.rope is not None:
        found |= {"RotaryEmbedding", "Sin", "Cos"}
    if model.activation.startswith("gelu"):
        found.add("Gelu")
    return frozenset(found)


@stage(
    "export.onnx_nvidia",
    params=NvidiaParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    output="onnx",
    version=1,
    determinism="bitwise",
    tools=("numpy", "onnx", "onnxruntime"),
    summary="The graphs of export.onnx as TensorRT takes them: half precision, QDQ, shape profiles",
    requires=requirements,
    accepts=accepts,
    takes_compact=True,
)
def run(context: Context[NvidiaParams]) -> Result:
    """Writes what `export.onnx` writes, by ONNX's own operators alone, and optimization_profiles.json.

    Every graph is held to TensorRT's rules (`tensorrt_rules.py`).  Raises InputError for one that it breaks,
    for weights that float16 cannot hold, and for sizes that are none.
    """
    from .artifact import write_artifact
    from .linear import Form
    from .profiles import PROFILES_FILE, SCHEMA, profiles
    from .tensorrt_rules import Subject, lint, lint_profiles

    params = context.params
    for requirement in requirements(params):
        if not requirement.met:
            raise RequirementError(f"the export needs {requirement.name}", fix=requirement.fix)
    if min((*params.batch, *params.sequence), default=0) < 1 or not (params.batch and params.sequence):
        raise InputError("export.batch and export.sequence are lists of sizes of at least 1")
    written = write_artifact(context, Form(0, "qdq", params.dtype, "tensorrt"), params.opset, IR_VERSION)
    shapes = profiles(written.graphs, written.architecture, params.batch, params.sequence)
    for name, graph in written.graphs.items():
        subject = Subject.of_graph(graph, params.opset)
        findings = lint(subject, params.sm)
        lacking = [node for node in subject.nodes if node.op_type in params.lacks]
        if findings or lacking:
            where = f"the graph {name}"
            if not findings:
                what = f"{lacking[0].name}: the target's runtime lacks {lacking[0].op_type}"
                raise InputError(what, where=where, fix="choose a target whose runtime has it")
            others = f" ({len(findings) - 1} more)" if len(findings) > 1 else ""
            raise InputError(f"TensorRT's rule {findings[0]}{others}", where=where, fix=findings[0].fix)
        wrong = lint_profiles(graph.structure, shapes[name], set(subject.constants))
        if wrong:
            raise StageError(f"the optimization profiles are not sound: {wrong[0]}")
    context.output.write_json(PROFILES_FILE, {"schema": SCHEMA, "graphs": shapes})
    context.output.write_json(
        SESSION_FILE, {**written.about, "dtype": params.dtype, "profiles": PROFILES_FILE, "sm": params.sm}
    )
    return Result(facts={**written.facts, "dtype": params.dtype, "sm": params.sm})
