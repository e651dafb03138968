"""Writes a checkpoint that has become smaller, tensor by tensor, and says what it is now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.tensors import SafetensorsWriter, TensorShape
from ..base import Result
from ..model.checkpoint import WEIGHTS_FILE
from ..model.weights import network_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..base import Context
    from ..model.checkpoint import Checkpoint


def write(
    context: Context[Any],
    made: Checkpoint,
    facts: Mapping[str, object],
    observed: Mapping[str, object],
) -> Result:
    """Writes ``made`` with its config, its tensors in the order of the source's files."""
    made.copy_sidecars(context.output, made.config)
    tensors = made.tensors
    layout = [TensorShape(name, *_form(made, name)) for name in tensors.names()]
    with context.output.create(WEIGHTS_FILE) as stream, SafetensorsWriter(stream, layout) as writer:
        for done, shape in enumerate(layout):
            context.progress(done, len(layout), shape.name)
            writer.write(shape.name, tensors.raw(shape.name))
            tensors.release(shape.name)
    context.progress(len(layout), len(layout), "written")
    network = made.outline
    found = {
        **context.inputs["model"].facts,
        "parameters": sum(tensors.info(name).count for name in network_tensors(made)),
        "weight_bytes": (context.output.payload / WEIGHTS_FILE).stat().st_size,
        "layers": network.layers,
        "hidden": network.hidden,
        **facts,
    }
    return Result(found, observed)


def _form(made: Checkpoint, name: str) -> tuple[str, tuple[int, ...]]:
    info = made.tensors.info(name)
    return info.dtype, info.shape
