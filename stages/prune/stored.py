"""Pruned weights as a checkpoint of the same dtypes: rounded as they are stored, written one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...artifacts.tensors import SafetensorsWriter
from ..base import Result
from ..model.checkpoint import WEIGHTS_FILE
from ..model.dtypes import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from ..base import Context
    from ..model.checkpoint import Checkpoint
    from ..model.sparsity import Target


def rounded(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """float32 values that a tensor stored as ``dtype`` holds: the nearest ones."""
    return narrow(weight, dtype).float()


def narrow(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """float32 values as a tensor stored as ``dtype`` has them."""
    return weight.to(getattr(torch, NAMES[dtype]))


def write(
    context: Context[Any],
    source: Checkpoint,
    targets: Mapping[str, Target],
    weight: Callable[[str], npt.NDArray[np.float32]],
    method: str,
    evidence: Mapping[str, Any],
    facts: Mapping[str, object],
) -> Result:
    """Writes the checkpoint with ``weight`` of each name of ``targets`` in its place, and counts its zeros.

    weight: float32, in the shape that is stored. All other tensors are written byte for byte.
    """
    source.copy_sidecars(context.output)
    names = source.tensors.names()
    zeros: dict[str, int] = {}
    with (
        context.output.create(WEIGHTS_FILE) as stream,
        SafetensorsWriter(stream, [source.tensors.info(name) for name in names]) as writer,
    ):
        for done, name in enumerate(names):
            context.progress(done, len(names), name)
            if name in targets:
                value = torch.from_numpy(weight(name)).to(
                    getattr(torch, NAMES[source.tensors.info(name).dtype])
                )
                zeros[name] = value.numel() - int(value.count_nonzero())
                writer.write(name, value.reshape(-1).view(torch.uint8).numpy())
            else:
                writer.write(name, source.tensors.raw(name))
            source.tensors.release(name)
    context.progress(len(names), len(names), "written")
    sizes = {name: source.tensors.info(name).count for name in targets}
    shares = {name: zeros[name] / sizes[name] for name in targets}
    found = {
        **context.inputs["model"].facts,
        "pruned_by": method,
        "sparsity": round(sum(zeros.values()) / sum(sizes.values()), 6),
        "sparsity_by_weight": {name: round(share, 6) for name, share in shares.items()},
        "pruned_parameters": sum(sizes.values()),
        **facts,
    }
    described = {
        name: {"pattern": target.label, "sparsity": shares[name], **evidence.get(name, {})}
        for name, target in targets.items()
    }
    return Result(found, observed={"tensors": described})
