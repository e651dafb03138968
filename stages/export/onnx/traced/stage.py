"""`export.transformers`: any model of transformers as ONNX in float32, by tracing transformers' own code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .....artifacts.errors import RequirementError, StageError
from ....base import Context, Requirement, Result, stage
from ..params import FileParams
from .versions import IR_VERSION, OPSET

if TYPE_CHECKING:
    from ....model.checkpoint import Checkpoint
    from ....model.logits_store import Rows
    from .graphs import Traced

SESSION_FILE = "ingot.json"
# How cases of :func:`ingot.stages.model.parity.measure` end in which padding is in question.
PADDED = "padded"


@dataclass(frozen=True)
class TransformersParams(FileParams):
    """Parameters of `export.transformers`."""


def requirements(params: TransformersParams) -> tuple[Requirement, ...]:
    """That the target's runtime takes the opset and the IR version, known before anything runs."""
    return params.loads(OPSET, IR_VERSION)


@stage(
    "export.transformers",
    params=TransformersParams,
    inputs={"model": ("checkpoint",)},
    output="onnx",
    version=1,
    determinism="bitwise",
    tools=("numpy", "onnx", "onnxruntime", "torch", "transformers"),
    summary="Any model of transformers in float32, traced from its code, for those outside the table",
    requires=requirements,
    any_architecture=True,
)
def run(context: Context[TransformersParams]) -> Result:
    """Writes what `export.onnx` writes: model.onnx, encoder.onnx of an encoder-decoder, and what is beside.

    What was traced is run on other sizes than it was traced with: whole sequences, step by step with a cache,
    in batches with padding. A language model whose cache cannot be traced becomes a graph without one, which
    computes the whole sequence at every step; a note says so. Raises IntakeError for weights that are not
    those of the config, and StageError for a model that cannot be traced or whose graph computes otherwise.
    """
    from ....model.checkpoint import Checkpoint
    from ....model.parity import reference_rows
    from ....model.torch_network import Network
    from ..session import ONNXRUNTIME
    from .modules import gather_experts
    from .verify import check_vocabulary

    for requirement in requirements(context.params):
        if not requirement.met:
            raise RequirementError(f"the export needs {requirement.name}", fix=requirement.fix)
    source = context.inputs["model"]
    checkpoint = Checkpoint.open(source.path)
    model = checkpoint.outline
    context.progress(0, 1, "loading the model in torch")
    network = Network(source.path, model.task)
    rows = reference_rows(network, model)
    check_vocabulary(rows, model, source.path)
    gathered_bytes = gather_experts(network.module)
    if gathered_bytes:
        context.note(
            f"the graph gathers the weights of every token's experts: {gathered_bytes / 1e6:.3g} MB for each "
            "token of a prompt"
        )
    traced, external = _export(context, checkpoint, network.module, rows)
    checkpoint.copy_sidecars(context.output)
    checkpoint.tensors.close()
    widths = _widths(traced, network.module)
    return Result(
        facts={
            **source.facts,
            "task": model.task,
            "model_type": model.model_type,
            "parameters": widths["float32"]["parameters"],
            "weights_by_width": widths,
            "has_cache": bool(traced.caches),
            "opset": OPSET,
            "ir_version": IR_VERSION,
            "domains": list(traced.domains),
            "external_data": external,
            "requires": {"onnxruntime": ONNXRUNTIME},
        }
    )


def _export(
    context: Context[TransformersParams], checkpoint: Checkpoint, network: Any, rows: Rows
) -> tuple[Traced, bool]:
    """Writes the graphs, with a cache if it can be; what was traced, and whether weights lie beside it."""
    from .graphs import find_caches, trace_model
    from .verify import described, differing

    model = checkpoint.outline
    caches = find_caches(network, model)
    reason = "it keeps no keys and values that a graph could take"
    for attempt in (caches, ()) if caches and model.task == "causal-lm" else (caches,):
        try:
            context.progress(0, 1, "tracing the model")
            traced = trace_model(network, model, attempt)
            external = _write(context, checkpoint, traced)
            context.progress(1, 1, "running the graph beside the model")
            errors = differing(context.output.payload, rows, context.threads)
        except StageError as error:
            reason = error.what
        else:
            wrong = {name: error for name, error in errors.items() if not name.endswith(PADDED)}
            if not wrong:
                break
            reason = f"its graph differs from the model in {described(wrong)}"
        _discard(context)
    else:
        raise StageError(
            f"{model.model_type} cannot be exported as transformers computes it: {reason}",
            where=str(checkpoint.directory),
            fix="describe its layers to Ingot through an entry point of the group ingot.families",
        )
    if model.task == "causal-lm" and not attempt:
        context.note(
            f"the graph of {model.model_type} has no cache ({reason}): every step of decoding computes the "
            "whole sequence anew"
        )
    if errors:
        context.note(
            f"rows of different length in one batch differ from each alone, in {described(errors)}: "
            f"{model.model_type} does not leave padding out"
        )
    return traced, external


def _write(context: Context[TransformersParams], checkpoint: Checkpoint, traced: Traced) -> bool:
    """Writes graphs and `ingot.json`; whether weights lie beside the graphs."""
    from ..check import check_structure
    from ..files import write_graphs
    from ..linear import Form
    from ..session import Heads, session_json
    from ..writer import model_header

    header = model_header(OPSET, IR_VERSION, traced.domains)
    for graph in traced.graphs.values():
        check_structure(graph, header)
    external = write_graphs(
        context.output,
        traced.graphs,
        header.SerializeToString(deterministic=True),
        context.params.external_data_above_bytes,
        context.progress,
    )
    heads, width = traced.caches[0].key if traced.caches else (0, 0)
    about = session_json(
        checkpoint.outline,
        Heads(len(traced.caches) or checkpoint.outline.layers, heads, heads, width),
        traced.graphs,
        Form(0),
        checkpoint.directory,
        OPSET,
        IR_VERSION,
    )
    context.output.write_json(SESSION_FILE, about)
    return external


def _discard(context: Context[TransformersParams]) -> None:
    """Deletes what was written, so that it can be written otherwise."""
    for path in context.output.payload.iterdir():
        path.unlink()


def _widths(traced: Traced, network: Any) -> dict[str, dict[str, int]]:
    """How many of the network's tensors and parameters the graphs hold, all of them float32."""
    names = {name for name, _ in network.named_parameters()}
    shapes = {
        each.name: each.shape
        for graph in traced.graphs.values()
        for each in graph.initializers
        if each.name in names
    }
    return {"float32": {"tensors": len(shapes), "parameters": sum(map(math.prod, shapes.values()))}}
