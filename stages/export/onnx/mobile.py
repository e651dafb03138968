"""`export.onnx_mobile`: the same graphs for phones, also in onnxruntime's own format, with what they need."""

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

IR_VERSIONS = {23: 11, 24: 11}
SESSION_FILE = "ingot.json"
OPERATORS_FILE = "required_operators.config"


@dataclass(frozen=True)
class MobileParams(FileParams):
    """Parameters of `export.onnx_mobile`."""

    opset: int = param(
        23,
        choices=tuple(IR_VERSIONS),
        doc="ONNX operator set; 23 is the first with attention, rotary embedding and RMS norm as operators",
    )
    accuracy_level: int = param(
        4,
        choices=(0, 4),
        doc="how MatMulNBits computes where weights ask for no activation scheme: 4 through int8 blocks of "
        "activations, which the dot product of ARMv8.2 makes 2.5 times as cheap, 0 in float32",
    )
    run_file: str = param(
        "ort",
        choices=("ort", "onnx"),
        doc="which of the two files is measured and counted as the artifact: ort, which the small mobile "
        "builds of onnxruntime open, or onnx, which the full packages do",
    )


def requirements(params: MobileParams) -> tuple[Requirement, ...]:
    """That the target's runtime takes the opset and the IR version, known before anything runs."""
    return params.loads(params.opset, IR_VERSIONS[params.opset])


def accepts(params: MobileParams, weights: Mapping[str, WeightSpec], _model: Architecture) -> None:
    """Raises InputError for weights that no kernel of onnxruntime computes with, from headers alone."""
    from .kernels import kernel_for

    for name, spec in weights.items():
        kernel_for(name, spec, params.accuracy_level)


@stage(
    "export.onnx_mobile",
    params=MobileParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    output="onnx",
    version=1,
    determinism="bitwise",
    tools=("numpy", "onnx", "onnxruntime"),
    summary="The graphs of export.onnx for phones: also as .ort, with the list of the operators they need",
    requires=requirements,
    accepts=accepts,
    takes_compact=True,
)
def run(context: Context[MobileParams]) -> Result:
    """Writes what `export.onnx` writes, model.ort (of an encoder-decoder encoder.ort too) beside it, and
    required_operators.config, from which onnxruntime is built with nothing else in it.

    Raises InputError for weights above 2 GiB, which no .ort file holds.
    """
    from .artifact import write_artifact
    from .linear import Form
    from .ort_format import ort_name, write_ort

    params = context.params
    for requirement in requirements(params):
        if not requirement.met:
            raise RequirementError(f"the export needs {requirement.name}", fix=requirement.fix)
    form = Form(params.accuracy_level, signed_activations=True)
    written = write_artifact(context, form, params.opset, IR_VERSIONS[params.opset])
    context.progress(1, 1, "writing the graph in the format of onnxruntime")
    write_ort(context.output, context.job, written.files, OPERATORS_FILE)
    about = dict(written.about)
    files = written.files
    if params.run_file == "ort":
        files = tuple(ort_name(name) for name in files)
        about["file"] = ort_name("model.onnx")
        encoder = about.get("encoder")
        if isinstance(encoder, dict):
            about["encoder"] = {**encoder, "file": ort_name(str(encoder["file"]))}
    context.output.write_json(SESSION_FILE, about)
    return Result(facts={**written.facts, "model_files": list(files)})
