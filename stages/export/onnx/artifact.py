"""What every stage that writes ONNX from the table of families does: graphs, what lies beside them, facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...model.checkpoint import Checkpoint
from ...model.families import Architecture, Outline
from ...model.quantized import QuantizedCheckpoint
from .build import build
from .check import check_loads, check_structure
from .files import write_graphs
from .graph import Graph
from .session import ONNXRUNTIME, Heads, session_json
from .weights import Weights
from .writer import model_header

if TYPE_CHECKING:
    from ...base import Context
    from .linear import Form
    from .params import FileParams


@dataclass(frozen=True)
class Written:
    """files: of the graphs, by name.  about: the content of `ingot.json`.  facts: of the artifact.

    graphs: by file, and the network that they are of.
    """

    files: tuple[str, ...]
    about: dict[str, object]
    facts: dict[str, object]
    graphs: Mapping[str, Graph]
    architecture: Architecture


def write_artifact(context: Context[Any], form: Form, opset: int, ir_version: int) -> Written:
    """Writes model.onnx, encoder.onnx of an encoder-decoder, the tokenizer and the configs.

    context: of a stage whose parameters are :class:`FileParams` and whose input is called ``model``; writing
    `ingot.json` is left to it.  Raises StageError for a graph that is not valid or that onnxruntime does not
    load, and InputError for quantized weights that no kernel computes with.
    """
    params: FileParams = context.params
    source = context.inputs["model"]
    quantized = QuantizedCheckpoint.open(source.path) if source.kind == "quantized-checkpoint" else None
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(source.path)
    model = checkpoint.architecture
    weights = Weights(checkpoint, quantized, form.dtype)
    graphs = build(model, weights, form)
    widths = weights.account(model)
    domains = tuple(sorted({domain for graph in graphs.values() for domain in graph.domains}))
    header = model_header(opset, ir_version, domains)
    for graph in graphs.values():
        check_structure(graph, header)
    external = write_graphs(
        context.output,
        graphs,
        header.SerializeToString(deterministic=True),
        params.external_data_above_bytes,
        context.progress,
    )
    checkpoint.copy_sidecars(context.output)
    about = session_json(Outline.of(model), Heads.of(model), graphs, form, source.path, opset, ir_version)
    checkpoint.tensors.close()
    if form.dtype == "bfloat16":
        context.note("the graph was checked and not loaded: onnxruntime has no bfloat16 kernels for a CPU")
    else:
        context.progress(1, 1, "loading the graph in onnxruntime")
        for name in graphs:
            check_loads(context.output.payload / name)
    facts = {
        **source.facts,
        "task": model.task,
        "model_type": model.model_type,
        "parameters": sum(entry["parameters"] for entry in widths.values()),
        "weights_by_width": widths,
        "opset": opset,
        "ir_version": ir_version,
        "domains": list(domains),
        "external_data": external,
        "requires": {"onnxruntime": ONNXRUNTIME},
    }
    return Written(tuple(graphs), about, facts, graphs, model)
