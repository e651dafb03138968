"""`export.onnx`: a checkpoint, quantized or not, as an ONNX graph, or two for an encoder-decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....artifacts.errors import RequirementError
from ....artifacts.schema import param
from ...base import Context, Requirement, Result, stage
from .params import FileParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...model.families import Architecture
    from ...model.quantized import WeightSpec

# The opsets that are written, and the oldest IR version that may carry each.
IR_VERSIONS = {23: 11, 24: 11}
SESSION_FILE = "ingot.json"


@dataclass(frozen=True)
class OnnxParams(FileParams):
    """Parameters of `export.onnx`."""

    opset: int = param(
        23,
        choices=tuple(IR_VERSIONS),
        doc="ONNX operator set; 23 is the first with attention, rotary embedding and RMS norm as operators",
    )
    accuracy_level: int = param(
        4,
        choices=(0, 4),
        doc="how MatMulNBits computes where weights ask for no activation scheme: 4 through int8 blocks of "
        "activations, 0 in float32; 4 because it is several times as fast for a thousandth of a perplexity",
    )
    quant_format: str = param(
        "qoperator",
        choices=("qoperator", "qdq"),
        doc="how quantized weights are written: qoperator, with the operators that onnxruntime adds, its "
        "fastest; qdq, with QuantizeLinear and DequantizeLinear alone, which other runtimes read",
    )


def requirements(params: OnnxParams) -> tuple[Requirement, ...]:
    """That the target's runtime takes the opset and the IR version, known before anything runs."""
    return params.loads(params.opset, IR_VERSIONS[params.opset])


def accepts(params: OnnxParams, weights: Mapping[str, WeightSpec], _model: Architecture) -> None:
    """Raises InputError for weights that no kernel of onnxruntime computes with, from headers alone."""
    from .kernels import kernel_for

    for name, spec in weights.items():
        kernel_for(name, spec, params.accuracy_level)


@stage(
    "export.onnx",
    params=OnnxParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    output="onnx",
    version=1,
    determinism="bitwise",
    tools=("numpy", "onnx", "onnxruntime"),
    summary="One ONNX graph for prefill and decoding, weights streamed, codes packed and never rounded",
    requires=requirements,
    accepts=accepts,
    takes_compact=True,
)
def run(context: Context[OnnxParams]) -> Result:
    """Writes model.onnx, with the tokenizer, the configs and `ingot.json` beside it.

    Of an encoder-decoder, encoder.onnx reads the source and model.onnx writes the target.
    """
    from ...model.checkpoint import Checkpoint
    from ...model.families import Outline
    from ...model.quantized import QuantizedCheckpoint
    from .build import build
    from .check import check_loads, check_structure
    from .files import write_graphs
    from .linear import Form
    from .session import ONNXRUNTIME, Heads, session_json
    from .weights import Weights
    from .writer import model_header

    for requirement in requirements(context.params):
        if not requirement.met:
            raise RequirementError(f"the export needs {requirement.name}", fix=requirement.fix)
    source = context.inputs["model"]
    quantized = QuantizedCheckpoint.open(source.path) if source.kind == "quantized-checkpoint" else None
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(source.path)
    model = checkpoint.architecture
    weights = Weights(checkpoint, quantized)
    form = Form(context.params.accuracy_level, "qdq" if context.params.quant_format == "qdq" else "qoperator")
    graphs = build(model, weights, form)
    widths = weights.account(model)
    opset, ir_version = context.params.opset, IR_VERSIONS[context.params.opset]
    domains = tuple(sorted({domain for graph in graphs.values() for domain in graph.domains}))
    header = model_header(opset, ir_version, domains)
    for graph in graphs.values():
        check_structure(graph, header)
    external = write_graphs(
        context.output,
        graphs,
        header.SerializeToString(deterministic=True),
        context.params.external_data_above_bytes,
        context.progress,
    )
    checkpoint.copy_sidecars(context.output)
    about = session_json(Outline.of(model), Heads.of(model), graphs, form, source.path, opset, ir_version)
    context.output.write_json(SESSION_FILE, about)
    checkpoint.tensors.close()
    context.progress(1, 1, "loading the graph in onnxruntime")
    for name in graphs:
        check_loads(context.output.payload / name)
    return Result(
        facts={
            **source.facts,
            "task": model.task,
            "model_type": model.model_type,
            "parameters": sum(entry["parameters"] for entry in widths.values()),
            "weights_by_width": widths,
            "opset": opset,
            "ir_version": ir_version,
            "domains": list(domains),
            "external_data": external,
            "requires": {"onnxruntime": ONNXRUNTIME},
        }
    )
