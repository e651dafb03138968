"""What quantization-aware training starts from: codes that exist already, or those of rounding to nearest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...artifacts.tensors import SafetensorsWriter, TensorShape
from ..model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
from ..model.dtypes import with_dtype
from ..model.quantized import WeightSpec
from .grid import round_to_nearest
from .lsq import CodeGrid
from .rounding import chosen, reader

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from ..model.quantized import QuantizedCheckpoint, QuantizedWeight
    from .formats import Choice

    Floats = npt.NDArray[np.float32]

# How far from the border of what rounds to its code a weight stays, in steps: floats are not exact.
MARGIN = 1e-3
# Facts of a model that say of it that somebody pruned it, by weight or all of them.
SPARSE_FACTS = ("sparsity", "input_sparsity")
SPARSE_BY_WEIGHT = "sparsity_by_weight"


@dataclass(frozen=True, eq=False)
class Start:
    """A network about to be trained under rounding.

    source: its weights in floating point, each of which rounds to its first code.  specs: of those that are
    rounded.  grids: of each.  sparse: the weights that are pruned; None where the zeros that are there tell.
    """

    source: Checkpoint
    specs: Mapping[str, WeightSpec]
    grids: Mapping[str, CodeGrid]
    transforms: Sequence[Mapping[str, object]] = ()
    sparse: frozenset[str] | None = None


def from_checkpoint(source: Checkpoint, choice: Choice) -> Start:
    """The start of `quantize.rtn`: each group's scale clipped where the squared error is least."""
    specs = chosen(source, choice)
    grids = {}
    for name, spec in specs.items():
        form, rows = spec.format, reader(source.tensors, name, spec)
        found = round_to_nearest(rows(slice(None)), form.bits, form.group_size, sym=form.sym, search="mse")
        grids[name] = _grid(found.scales, found.zeros)
        source.tensors.release(name)
    return Start(source, specs, grids)


def from_codes(
    opened: QuantizedCheckpoint,
    facts: Mapping[str, object],
    original: Checkpoint | None,
    directory: Path,
) -> Start:
    """The start that a quantized checkpoint is, its weights written out into ``directory``.

    facts: of its artifact, which tell whether it was pruned.
    original: the network in floating point. Of its weights the nearest that round to the codes are taken:
    training then knows which way each lies; without it, what the codes stand for.
    """
    specs = opened.quantized
    weights = {name: opened.weight(name) for name in specs}
    grids = {name: _grid(weight.scales, weight.zeros) for name, weight in weights.items()}
    directory.mkdir(parents=True, exist_ok=True)
    _write(opened, original, directory)
    sparse = frozenset[str]()
    if isinstance(by_weight := facts.get(SPARSE_BY_WEIGHT), dict):
        sparse = frozenset(by_weight)
    elif any(name in facts for name in SPARSE_FACTS):
        sparse = frozenset(linear.name for linear in opened.checkpoint.architecture.linears)
    return Start(
        Checkpoint.open(directory), specs, grids, opened.transforms, sparse if original is None else None
    )


def nearest_with_codes(weight: Floats, codes: QuantizedWeight) -> Floats:
    """The weights [out, in] nearest to some others that round to given codes; ends of the range are open."""
    spec = codes.spec
    group = np.arange(spec.shape[1]) // (spec.format.group_size or spec.shape[1])
    scales = codes.scales[:, group]
    steps = codes.codes.astype(np.float32) - codes.zeros.astype(np.float32)[:, group]
    reach = np.float32(0.5 - MARGIN)
    low = np.where(codes.codes == 0, -np.inf, (steps - reach) * scales)
    high = np.where(codes.codes == 2**spec.format.bits - 1, np.inf, (steps + reach) * scales)
    return np.clip(weight, low, high).astype(np.float32)


def _write(opened: QuantizedCheckpoint, original: Checkpoint | None, directory: Path) -> None:
    """A quantized checkpoint as an ordinary one: codes as float32 weights, all else as it is stored."""
    source, floats = opened.checkpoint, opened.float_names()
    shapes = {n: s.shape[::-1] if s.stored_in_out else s.shape for n, s in opened.quantized.items()}
    layout = [TensorShape(name, "F32", shape) for name, shape in shapes.items()]
    layout += [source.tensors.info(name) for name in floats]
    with (directory / WEIGHTS_FILE).open("wb") as stream, SafetensorsWriter(stream, layout) as writer:
        for name, spec in opened.quantized.items():
            codes = opened.weight(name)
            if original is None:
                found = codes.dequantize()
            else:
                found = nearest_with_codes(reader(original.tensors, name, spec)(slice(None)), codes)
                original.tensors.release(name)
            writer.write(name, np.ascontiguousarray(found.T if spec.stored_in_out else found))
            source.tensors.release(f"{name}.codes")
        for name in floats:
            writer.write(name, source.tensors.raw(name))
    for path in source.sidecars():
        shutil.copyfile(path, directory / path.name)
    config = with_dtype(source.config, "float32")
    (directory / CONFIG_FILE).write_text(json.dumps(config), "utf-8")


def _grid(scales: npt.NDArray[Any], zeros: npt.NDArray[Any]) -> CodeGrid:
    """Arrays as tensors of their own."""
    return CodeGrid(torch.tensor(scales), torch.tensor(zeros.astype(np.float32)))
