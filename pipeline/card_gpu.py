"""How artifacts for NVIDIA GPUs are run: what their model cards say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .metrics import ENCODER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENGINE = "tensorrt-engine"


def engine_section(session: Mapping[str, Any]) -> Iterator[str]:
    """How an engine is run: by Ingot, or by the library alone."""
    library, version = next(iter(session.get("requires", {}).items()), ("tensorrt", None))
    distribution = str(library).replace("_", "-")
    yield "## Run it"
    yield ""
    yield "On the GPU that `engine.json` names, with the library that built it and a torch for CUDA:"
    yield ""
    yield "```sh"
    yield f"pip install {distribution}" + (f"=={version}" if version else "")
    yield 'ingot generate . "Once upon a time"' if session.get("task") != ENCODER else "ingot validate ."
    yield "```"
    yield ""
    yield "Or by the library alone; `tensors` are CUDA tensors by name, inputs and outputs, and the shapes"
    yield "that inputs may have are in `optimization_profiles.json`, a profile after the other:"
    yield ""
    yield "```python"
    yield f"import {library} as trt, torch"
    yield "runtime, stream = trt.Runtime(trt.Logger()), torch.cuda.Stream()"
    yield 'engine = runtime.deserialize_cuda_engine(open("model.engine", "rb").read())'
    yield "context = engine.create_execution_context()"
    yield "context.set_optimization_profile_async(0, stream.cuda_stream)"
    yield "for name, tensor in tensors.items():"
    yield "    if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:"
    yield "        context.set_input_shape(name, tuple(tensor.shape))"
    yield "    context.set_tensor_address(name, tensor.data_ptr())  # of an empty cache, any other address"
    yield "context.execute_async_v3(stream.cuda_stream)"
    yield "stream.synchronize()"
    yield "```"


def bfloat16_section() -> Iterator[str]:
    """Why a graph in bfloat16 has no code for a processor, and what runs it."""
    yield "## Run it"
    yield ""
    yield "The graph computes in bfloat16, which no kernel of onnxruntime's for processors takes and numpy"
    yield "does not have: compile it with TensorRT, with the shapes in `optimization_profiles.json`, or run"
    yield "it with `onnxruntime-gpu` and tensors of torch."
