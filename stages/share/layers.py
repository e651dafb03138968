"""`share.layers`: groups of layers use one set of weights, stored once (ALBERT, arXiv:1909.11942)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import Context, Result, stage
from .groups import MEAN, ShareParams, preflight

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource


@stage(
    "share.layers",
    params=ShareParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy", "torch"),
    summary="Groups of layers use one set of weights, stored once: the mean of theirs, or the first one's",
    preflight=preflight,
    makes_compact=True,
)
def run(context: Context[ShareParams]) -> Result:
    """Writes the checkpoint `model` with the shared weights once, one tensor in memory at a time.

    Under the other names stand empty tensors. Raises RecipeError for groups that the network does not have.
    """
    from ...artifacts.tensors import SafetensorsWriter, TensorShape
    from ..model.checkpoint import WEIGHTS_FILE, Checkpoint
    from ..model.families.compact import Compact
    from .groups import choose

    params, source = context.params, Checkpoint.open(context.inputs["model"].path)
    tensors, groups = source.tensors, choose(source.architecture, params)
    owners = {module: group.modules[0] for group in groups for module in group.modules[1:]}
    compact = Compact({}, owners)
    members: dict[str, list[str]] = {}
    for name in tensors.names():
        members.setdefault(compact.resolved(name), []).append(name)
    layout = [
        TensorShape(name, tensors.info(name).dtype, tensors.info(name).shape if name in members else (0,))
        for name in tensors.names()
    ]
    apart: dict[str, float] = {}
    with context.output.create(WEIGHTS_FILE) as stream, SafetensorsWriter(stream, layout) as writer:
        for done, shape in enumerate(layout):
            name = shape.name
            context.progress(done, len(layout), name)
            if name not in members:
                writer.write(name, b"")
                continue
            same = members[name]
            if len(same) == 1 or params.source != MEAN:
                writer.write(name, tensors.raw(name))
            else:
                writer.write(name, _mean(tensors, same, shape.dtype))
            apart |= _distances(tensors, same) if len(same) > 1 else {}
            for each in same:
                tensors.release(each)
    source.copy_sidecars(context.output, compact.config(source.config))
    gone = sum(tensors.info(name).count for name in tensors.names() if name not in members)
    return Result(
        {
            **context.inputs["model"].facts,
            "parameters": int(str(context.inputs["model"].facts["parameters"])) - gone,
            "weight_bytes": (context.output.payload / WEIGHTS_FILE).stat().st_size,
            "shared_by": params.source,
            "shared_modules": owners,
            "shared_parameters": gone,
        },
        observed={"tensors": {name: {"apart": value} for name, value in apart.items()}},
    )


def _mean(tensors: TensorSource, names: Sequence[str], dtype: str) -> npt.NDArray[np.uint8]:
    """The mean of tensors, the nearest that the dtype holds, as bytes."""
    import torch

    from ..model.dtypes import NAMES

    total = torch.from_numpy(tensors.float32(names[0])).double()
    for name in names[1:]:
        total += torch.from_numpy(tensors.float32(name))
    mean = (total / len(names)).to(getattr(torch, NAMES[dtype]))
    found: npt.NDArray[np.uint8] = mean.reshape(-1).view(torch.uint8).numpy()
    return found


def _distances(tensors: TensorSource, names: Sequence[str]) -> dict[str, float]:
    """How far each tensor is from the mean of all, relative to its norm."""
    import numpy as np

    mean = np.mean([tensors.float32(name) for name in names], axis=0, dtype=np.float64)
    found = {}
    for name in names:
        value = tensors.float32(name)
        size = float(np.linalg.norm(value))
        found[name] = float(np.linalg.norm(value - mean)) / size if size else 0.0
    return found
