"""`dequantize`: the weights that codes stand for, in float32, as a checkpoint like any other."""

from __future__ import annotations

from dataclasses import dataclass

from ..base import Context, Result, stage


@dataclass(frozen=True)
class DequantizeParams:
    """`dequantize` has no parameters: float32 holds what codes and scales give, rounded once."""


@stage(
    "dequantize",
    params=DequantizeParams,
    inputs={"model": ("quantized-checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="The weights that codes stand for, in float32: a reference, or a start for other stages",
    same_function=True,
    takes_compact=True,
)
def run(context: Context[DequantizeParams]) -> Result:
    """Writes (code − zero) · scale, or level · scale, of every weight; all else stays as it is.

    config.json says float32, so that whoever loads it does not round the weights to what they once were.
    """
    from ...artifacts.tensors import SafetensorsWriter
    from ..model.checkpoint import WEIGHTS_FILE
    from ..model.dequantized import dequantized, plain_facts
    from ..model.quantized import QuantizedCheckpoint

    plain = dequantized(QuantizedCheckpoint.open(context.inputs["model"].path))
    layout = [plain.tensors.info(name) for name in plain.tensors.names()]
    with context.output.create(WEIGHTS_FILE) as stream, SafetensorsWriter(stream, layout) as writer:
        for done, shape in enumerate(layout):
            context.progress(done, len(layout), shape.name)
            writer.write(shape.name, plain.tensors.raw(shape.name))
            plain.tensors.release(shape.name)
    plain.copy_sidecars(context.output, plain.config)
    return Result({**plain_facts(context.inputs["model"].facts), "dtype": "float32"})
