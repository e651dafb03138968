"""A stage that clips every weight to a range around zero."""

from dataclasses import dataclass

import ingot


@dataclass(frozen=True)
class ClipParams:
    largest: float = ingot.param(4.0, doc="no weight is further from zero")


@ingot.stage(
    "clip.largest",
    params=ClipParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy",),
    summary="Clip every weight to a range around zero",
)
def run(context: ingot.Context[ClipParams]) -> ingot.Result:
    import numpy as np
    from ingot.artifacts.tensors import SafetensorsWriter, TensorShape
    from ingot.stages.model.checkpoint import Checkpoint

    source = Checkpoint.open(context.inputs["model"].path)
    source.copy_sidecars(context.output)
    names = source.tensors.names()
    layout = [TensorShape(name, "F32", source.tensors.info(name).shape) for name in names]
    limit = context.params.largest
    with context.output.create("model.safetensors") as file, SafetensorsWriter(file, layout) as writer:
        for name in names:
            writer.write(name, np.clip(source.tensors.float32(name), -limit, limit))
    return ingot.Result(facts={**context.inputs["model"].facts, "dtype": "float32"})
