"""Traces the programs of a decoder with torch.export, on the processor and without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ....artifacts.tensors import SafetensorsWriter
from ....targets.runtimes.program import DECODE, HEAD, PREFILL, any_size, example
from .network import Decode, Head, Prefill, Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ....artifacts.tensor_writer import Stream
    from ...base import Progress
    from ...model.families import Architecture
    from .packing import Entry, Packed

KINDS: Mapping[str, type[Program]] = {PREFILL: Prefill, HEAD: Head, DECODE: Decode}


def trace(
    model: Architecture,
    about: Mapping[str, Any],
    packed: Mapping[str, Packed],
    weights: Mapping[str, Any],
    name: str,
) -> torch.export.ExportedProgram:
    """One program; its batch and, of a prompt, its length vary.

    about: what `ingot.json` says.  weights: by name, in order.
    """
    program = KINDS[name](model, tuple(weights), packed, getattr(torch, str(about["dtype"]))).eval()
    with any_size(), torch.no_grad():
        found = torch.export.export(
            program,
            example(about, name, list(weights.values()), "cpu"),
            dynamic_shapes=_sizes(about, name, weights),
        )
    # Examples would be saved with the program, weights and all.
    found.example_inputs = None
    return _anywhere(found)


def _anywhere(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without its assertions that tensors are where they were when it was traced."""
    for node in tuple(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:  # noqa: SLF001 - its name
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def write_weights(entries: Sequence[Entry], stream: Stream, progress: Progress) -> None:
    """Writes the tensors as safetensors, each made when it is its turn."""
    with SafetensorsWriter(stream, [entry.shape for entry in entries]) as writer:
        for done, entry in enumerate(entries):
            progress(done, len(entries), entry.shape.name)
            tensor = entry.make().contiguous()
            writer.write(entry.shape.name, tensor.reshape(-1).view(torch.uint8).numpy())


def save(program: torch.export.ExportedProgram, path: Path) -> None:
    """Writes a program."""
    torch.export.save(program, path)


def _sizes(
    about: Mapping[str, Any], name: str, weights: Sequence[str] | Mapping[str, Any]
) -> tuple[Any, ...]:
    """Which sizes vary, input by input."""
    varies = torch.export.Dim.DYNAMIC
    fixed: list[None] = [None] * len(weights)
    if name == HEAD:
        return fixed, {0: varies, 1: varies}
    cache = [{0: varies}] * int(about["layers"])
    if name == PREFILL:
        return fixed, cache, list(cache), {0: varies, 1: varies}
    return fixed, cache, list(cache), {0: varies}, {0: varies}
