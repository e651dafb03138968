"""A module of torch as a :class:`Graph`: traced by TorchScript's exporter, its weights left where they are.

Of the three ways that torch 2.9 to 2.13 and transformers 5.9 to 5.23 offer, measured on 40 architectures of
one or two layers: TorchScript took 0.3 to 1 second a graph and covered most, with nothing to install beside
torch. `torch.export` took 11 to 30 seconds, needs onnxscript, and covered no more; transformers' own
exporters are built on it, and are missing in 5.9. What a trace gets wrong is found by running the graph.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch.onnx import symbolic_helper

from .....artifacts.errors import StageError
from ..graph import CONTRIB, ELEMENT_TYPES, Graph, Initializer
from .versions import OPSET

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

PREFIX = "network."
# Its types leave out streams and rules of one's own, which the exporter that is used here takes.
EXPORTER: Any = torch.onnx


@dataclass(frozen=True)
class Value:
    """An input with the tensor that stands for it while tracing, or an output.

    dimensions: names of those that vary, by axis.  default: of an optional input.
    """

    name: str
    dimensions: Mapping[int, str]
    sample: torch.Tensor | None = None
    default: Ints | None = None


def trace(module: torch.nn.Module, inputs: Sequence[Value], outputs: Sequence[Value], name: str) -> Graph:
    """The graph of a module.

    Inputs that nothing reads are left out. Raises StageError when the module cannot be traced.
    """
    module.eval()
    stream = io.BytesIO()
    EXPORTER.register_custom_op_symbolic("aten::repeat_interleave", _repeat_interleave, OPSET)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            EXPORTER.export(
                module,
                tuple(value.sample for value in inputs),
                stream,
                input_names=[value.name for value in inputs],
                output_names=[value.name for value in outputs],
                dynamic_axes={value.name: dict(value.dimensions) for value in (*inputs, *outputs)},
                opset_version=OPSET,
                dynamo=False,
                # Weights become inputs of their own names, as they are stored.
                export_params=False,
                do_constant_folding=False,
                keep_initializers_as_inputs=True,
            )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError(f"torch cannot trace the model: {reason}") from error
    finally:
        EXPORTER.unregister_custom_op_symbolic("aten::repeat_interleave", OPSET)
    return _graph(onnx.load_from_string(stream.getvalue()).graph, module, inputs, name)


def _graph(structure: Any, module: torch.nn.Module, inputs: Sequence[Value], name: str) -> Graph:
    structure.name = name
    del structure.value_info[:]
    wanted = {value.name: value for value in inputs}
    weights = [value.name for value in structure.input if value.name not in wanted]
    kept = [value for value in structure.input if value.name in wanted]
    del structure.input[:]
    structure.input.extend(kept)
    # Of the names of a shared tensor the first, in every graph of a model.
    first = {
        id(tensor): name for name, tensor in reversed([*module.named_parameters(), *module.named_buffers()])
    }
    tensors: dict[str, torch.Tensor] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    plain = {weight: first[id(tensors[weight])].removeprefix(PREFIX) for weight in weights}
    for node in structure.node:
        node.input[:] = [plain.get(each, each) for each in node.input]
    shared = {plain[weight]: tensors[weight] for weight in weights}
    initializers = [_initializer(*each) for each in shared.items()]
    for value in kept:
        default = wanted[value.name].default
        if default is not None:
            initializers.append(_constant(value.name, default))
    transposed = _fuse_transposed(structure, {initializer.name for initializer in initializers})
    return Graph(structure, tuple(initializers), (CONTRIB,) if transposed else ())


def _initializer(name: str, tensor: torch.Tensor) -> Initializer:
    values = tensor.detach().contiguous().numpy()
    if values.dtype.name not in ELEMENT_TYPES:
        raise StageError(f"{name} is {values.dtype.name}, which no graph here holds")
    return _constant(name, values)


def _constant(name: str, values: npt.NDArray[Any]) -> Initializer:
    def blocks() -> Iterator[npt.NDArray[Any]]:
        yield values

    return Initializer(name, values.dtype.name, values.shape, blocks)


def _fuse_transposed(structure: Any, weights: set[str]) -> bool:
    """Lets products read weights as they are stored, [out, in], where the trace turns them first.

    A runtime would turn them when it loads, and hold an embedding twice that is the head as well. Whether
    there were any.
    """
    turned = {
        node.output[0]: node.input[0]
        for node in structure.node
        if node.op_type == "Transpose"
        and node.input[0] in weights
        and [list(each.ints) for each in node.attribute] == [[1, 0]]
    }
    for node in structure.node:
        if node.op_type == "MatMul" and node.input[1] in turned:
            node.input[1] = turned[node.input[1]]
            node.op_type, node.domain = "FusedMatMul", CONTRIB
            node.attribute.append(onnx.helper.make_attribute("transB", 1))
    used = {each for node in structure.node for each in node.input}
    nodes = [node for node in structure.node if node.output[0] not in turned or node.output[0] in used]
    del structure.node[:]
    structure.node.extend(nodes)
    return any(node.domain == CONTRIB for node in nodes)


def _repeat_interleave(
    graph: Any, value: Any, repeats: Any, dim: Any = None, _output_size: Any = None
) -> Any:
    """`repeat_interleave` by a number, for which torch's own rule makes a loop that fails: each slice beside
    itself on a new axis, then both axes as one.
    """
    axis = symbolic_helper._maybe_get_const(dim, "i")  # noqa: SLF001 - torch exports no other way to ask
    rank: Any = symbolic_helper._get_tensor_rank(value)  # noqa: SLF001
    count = symbolic_helper._maybe_get_const(repeats, "i")  # noqa: SLF001

    def numbers(*values: int) -> Any:
        return graph.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))

    if isinstance(count, int):
        count = numbers(count)
    elif symbolic_helper._get_tensor_rank(repeats) == 0:  # noqa: SLF001
        count = graph.op("Reshape", repeats, numbers(-1))
    else:
        raise NotImplementedError("repeat_interleave by other numbers for every slice")
    if not isinstance(axis, int):
        value, axis, rank = graph.op("Reshape", value, numbers(-1)), 0, 1
    axis %= rank

    def around(before: int, after: int) -> Any:
        """The count between so many ones."""
        return graph.op("Concat", numbers(*[1] * before), count, numbers(*[1] * after), axis_i=0)

    wide = graph.op("Unsqueeze", value, numbers(axis + 1))
    wide = graph.op("Tile", wide, around(axis + 1, rank - axis - 1))
    shape = graph.op("Mul", graph.op("Shape", value), around(axis, rank - axis - 1))
    return graph.op("Reshape", wide, shape)
