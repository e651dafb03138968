"""A network lowered to ExecuTorch: exported with a length that varies, delegated to XNNPACK, serialized."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ....artifacts.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .network import Network

# What a length is traced with: neither 0 nor 1, which would be taken as fixed.
TRACED_TOKENS = 3
CODES = ("qcint4", "qbint4", "qcint8")


@dataclass(frozen=True)
class Lowered:
    """A program. products: quantized maps that XNNPACK computes.  delegates: parts that it took.

    bytes_by_part: `delegated_weights`, what XNNPACK packs when it loads; `other`, the rest of the file: the
    embedding, tables, instructions.
    """

    manager: Any
    version: str
    products: int
    delegates: int
    bytes_by_part: Mapping[str, int]

    def write(self, sink: Any) -> None:
        """Writes the file."""
        sink.write(bytes(self.manager.buffer))


def lower(network: Network, length: int, *, dynamic: bool) -> Lowered:
    """Lowers a network whose sequences are at most ``length`` tokens.

    dynamic: whether any of its maps has int8 activations.  Raises StageError with what the exporter says.
    """
    with _quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
            XnnpackDynamicallyQuantizedPartitioner,
            XnnpackPartitioner,
        )
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        partitioners = [XnnpackDynamicallyQuantizedPartitioner()] if dynamic else []
        ids = torch.zeros((1, TRACED_TOKENS), dtype=torch.int64)
        tokens = torch.export.Dim("tokens", min=2, max=length)
        given: tuple[torch.Tensor, ...] = (ids,)
        shapes: tuple[Mapping[int, Any], ...] = ({1: tokens},)
        if network.model.task == "causal-lm":
            given, shapes = (*given, torch.arange(TRACED_TOKENS)), (*shapes, {0: tokens})
        try:
            with torch.no_grad():
                exported = torch.export.export(network, given, dynamic_shapes=shapes, strict=False)
                edge = to_edge_transform_and_lower(
                    exported,
                    partitioner=[*partitioners, XnnpackPartitioner()],
                    compile_config=EdgeCompileConfig(_check_ir_validity=False),
                )
                program = edge.to_executorch()
        except Exception as error:  # each library below raises its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StageError(f"ExecuTorch does not lower {network.model.model_type}: {reason}") from error
    from importlib.metadata import version

    total = len(program.buffer)
    named = sum(len(buffer) for buffer in program._named_data.buffers)  # noqa: SLF001 - no public name
    graph = program.exported_program().graph_module
    delegates = [node for node in graph.graph.nodes if "call_delegate" in str(node.target)]
    return Lowered(
        program,
        ".".join(version("executorch").split(".")[:2]),
        _products(graph),
        len(delegates),
        {"delegated_weights": named, "other": total - named},
    )


def _products(graph: Any) -> int:
    """How many weights of codes the delegated parts hold."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    found = 0
    for _, module, _ in get_lowered_submodules(graph):
        for node in module.original_module.graph.nodes:
            is_scaled = "dequantize_affine" in str(node.target)
            found += bool(is_scaled and node.args[0].op == "placeholder")
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back the warnings and logs of libraries, whose messages are about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("ET_LOG_LEVEL", "error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
