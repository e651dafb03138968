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
    from .artifact import write_artifact
    from .linear import Form

    params = context.params
    for requirement in requirements(params):
        if not requirement.met:
            raise RequirementError(f"the export needs {requirement.name}", fix=requirement.fix)
    form = Form(params.accuracy_level, "qdq" if params.quant_format == "qdq" else "qoperator")
    written = write_artifact(context, form, params.opset, IR_VERSIONS[params.opset])
    context.output.write_json(SESSION_FILE, written.about)
    return Result(facts=written.facts)
