"""What is checked before and after an ONNX file is written: its structure, and that the runtime loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from ....artifacts.errors import StageError
from ....targets.runtimes.library import import_onnxruntime
from .graph import ELEMENT_TYPES

if TYPE_CHECKING:
    from pathlib import Path

    from .graph import Graph

# Shapes and axes are constants of a few numbers; the checker needs their values, and no weight's.
CONSTANT_BYTES = 1024


def check_structure(graph: Graph, header: onnx.ModelProto) -> None:
    """Runs the ONNX checker with shape inference on the graph, weights standing as inputs without data.

    Raises StageError with what the checker says.
    """
    model = onnx.ModelProto()
    model.CopyFrom(header)
    model.graph.CopyFrom(graph.structure)
    declared = {value.name for value in model.graph.input}
    for initializer in graph.initializers:
        element = ELEMENT_TYPES[initializer.dtype]
        if initializer.bytes <= CONSTANT_BYTES:
            data = b"".join(block.tobytes() for block in initializer.blocks())
            model.graph.initializer.append(
                TensorProto(name=initializer.name, data_type=element, dims=initializer.shape, raw_data=data)
            )
        elif initializer.name not in declared:
            model.graph.input.append(
                helper.make_tensor_value_info(initializer.name, element, initializer.shape)
            )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"the graph is not valid ONNX: {error}") from error


def check_loads(path: Path) -> None:
    """Opens the file in onnxruntime: operators have kernels, types and shapes agree, all bytes are there.

    Neither optimizes nor repacks weights, which would take more time and memory than writing the file did.
    Raises StageError with the first line of what onnxruntime says.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no other common base
        reason = str(error).strip().splitlines()[0]
        raise StageError(
            f"onnxruntime {onnxruntime.__version__} does not load the exported graph: {reason}"
        ) from error
