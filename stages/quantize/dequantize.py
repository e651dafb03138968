"""`dequantize`: the weights that codes stand for, in float32, as a checkpoint like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base import Context, Result, stage
from ..model.dtypes import with_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from ..model.quantized import QuantizedWeight

BLOCK_ELEMENTS = 1 << 21
# What a quantized checkpoint's facts say of its codes.
OF_CODES = ("method", "weights_by_width", "bits_per_weight", "layout", "weights")


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
    from ...artifacts.tensors import SafetensorsWriter, TensorShape
    from ..model.checkpoint import WEIGHTS_FILE
    from ..model.quantized import QuantizedCheckpoint

    source = QuantizedCheckpoint.open(context.inputs["model"].path)
    checkpoint = source.checkpoint
    tensors, floats = checkpoint.tensors, source.float_names()
    shapes = {
        name: spec.shape[::-1] if spec.stored_in_out else spec.shape
        for name, spec in source.quantized.items()
    }
    layout = [TensorShape(name, "F32", shape) for name, shape in shapes.items()]
    layout += [tensors.info(name) for name in floats]
    total = len(layout)
    with context.output.create(WEIGHTS_FILE) as stream, SafetensorsWriter(stream, layout) as writer:
        for done, name in enumerate(shapes):
            context.progress(done, total, name)
            writer.write(name, _values(source.weight(name)))
            tensors.release(f"{name}.codes")
        for done, name in enumerate(floats):
            context.progress(len(shapes) + done, total, name)
            writer.write(name, tensors.raw(name))
    checkpoint.copy_sidecars(context.output, with_dtype(checkpoint.config, "float32"))
    facts = {key: value for key, value in context.inputs["model"].facts.items() if key not in OF_CODES}
    return Result({**facts, "dtype": "float32"})


def _values(weight: QuantizedWeight) -> npt.NDArray[np.float32]:
    """The weight as its checkpoint stores it, made in blocks of rows."""
    import numpy as np

    rows, columns = weight.spec.shape
    found = np.empty((rows, columns), np.float32)
    for block in _blocks(rows, columns):
        found[block] = weight.dequantize(block)
    return np.ascontiguousarray(found.T) if weight.spec.stored_in_out else found


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield slice(start, start + step)
