"""The walk that `quantize.rtn` and `quantize.dynamic` share: a checkpoint in, rounded weight by weight."""

from __future__ import annotations

import fnmatch
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RecipeError, StageError
from ..model.checkpoint import WEIGHTS_FILE, Checkpoint
from ..model.quantized import WeightFormat, WeightSpec, record_json, weights_by_width
from .grid import ScaleSearch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..base import Context, Result
    from ..model.families import Architecture
    from .grid import Grid

# Half a million weights and the buffers of the scale search stay in a core's cache.
BLOCK_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class Choice:
    """What a stage wants: the format of linear layers, of the output head and of the embedding.

    ``head`` and ``embedding`` None leave that weight in floating point.
    """

    linear: WeightFormat
    head: WeightFormat | None
    embedding: WeightFormat | None
    search: ScaleSearch
    ignore: tuple[str, ...]


def choose(model: Architecture, choice: Choice) -> dict[str, WeightSpec]:
    """The weights to quantize, by tensor name.

    A head that is tied to the embedding is the same bytes, so it takes the wider of the two formats.
    Raises RecipeError for an ``ignore`` pattern that matches no weight.
    """
    specs: dict[str, WeightSpec] = {}
    embedding = choice.embedding
    if model.tied:
        embedding = wider(choice.embedding, choice.head)
    if embedding is not None:
        for name in model.embeddings:
            specs[name] = WeightSpec(embedding, (model.vocabulary, model.embedding_width))
    for linear in model.linears:
        form = choice.head if linear.name == model.lm_head else choice.linear
        if form is not None:
            shape = (linear.out_features, linear.in_features)
            specs[linear.name] = WeightSpec(form, shape, linear.stored_in_out)
    for pattern in choice.ignore:
        matched = fnmatch.filter(specs, pattern)
        if not matched:
            raise RecipeError(
                f"quantize.ignore: {pattern!r} matches no weight",
                fix=f"weights are called like {next(iter(specs), 'nothing')}",
            )
        for name in matched:
            del specs[name]
    return specs


def wider(embedding: WeightFormat | None, head: WeightFormat | None) -> WeightFormat | None:
    """The format with more bits, the head's when they are equal; None, floating point, is the widest."""
    if embedding is None or head is None:
        return None
    return embedding if embedding.bits > head.bits else head


def quantize(context: Context[Any], choice: Choice, method: str) -> Result:
    """Rounds a checkpoint by ``choice`` and writes the quantized form, one weight in memory at a time.

    Raises StageError when not a single linear layer would be quantized.
    """
    from ..base import Result

    source = Checkpoint.open(context.inputs["model"].path)
    model = source.architecture
    specs = choose(model, choice)
    if not any(linear.name in specs for linear in model.linears):
        raise StageError("no linear weight would be quantized", fix="ignore less, or drop the quantize stage")
    source.copy_sidecars(context.output)
    errors = write_weights(context, source, specs, choice.search)
    context.output.write_json("quantization.json", record_json(method, specs))
    floats: dict[str, tuple[int, int]] = {}
    for name in source.tensors.names():
        if name not in specs:
            info = source.tensors.info(name)
            tensors, parameters = floats.get(info.dtype.lower(), (0, 0))
            floats[info.dtype.lower()] = (tensors + 1, parameters + info.count)
    linear = [specs[item.name] for item in model.linears if item.name in specs]
    facts = {
        **context.inputs["model"].facts,
        "method": method,
        "weights_by_width": weights_by_width(specs, floats),
        "bits_per_weight": round(
            sum(spec.payload_bits for spec in linear) / sum(spec.parameters for spec in linear), 4
        ),
    }
    return Result(facts, observed={"tensors": errors})


def write_weights(
    context: Context[Any], source: Checkpoint, specs: Mapping[str, WeightSpec], search: ScaleSearch
) -> dict[str, object]:
    """Streams every tensor to `model.safetensors`; gives the rounding error of each quantized one."""
    from ...artifacts.tensors import SafetensorsWriter, TensorShape

    names = source.tensors.names()
    layout: list[TensorShape] = []
    for name in names:
        if spec := specs.get(name):
            layout += spec.layout(name)
        else:
            info = source.tensors.info(name)
            layout.append(TensorShape(name, info.dtype, info.shape))
    errors: dict[str, object] = {}
    with (
        context.output.create(WEIGHTS_FILE) as stream,
        SafetensorsWriter(stream, layout) as writer,
        ThreadPoolExecutor(context.threads) as pool,
    ):
        for done, name in enumerate(names):
            context.progress(done, len(names), name)
            if spec := specs.get(name):
                errors[name] = write_quantized(writer, pool, source.tensors, name, spec, search)
            else:
                writer.write(name, source.tensors.raw(name))
    context.progress(len(names), len(names), "written")
    return errors


def write_quantized(
    writer: Any,
    pool: ThreadPoolExecutor,
    tensors: TensorSource,
    name: str,
    spec: WeightSpec,
    search: ScaleSearch,
) -> dict[str, float | None]:
    """Rounds one weight in blocks of rows and writes its codes, scales and zeros.

    Gives relative_error, ‖W − Ŵ‖ / ‖W‖ (Frobenius), and snr_db, −20 log10 of it, None for a weight without
    error: what is observed is JSON, which has no infinity.
    """
    import numpy as np

    rows = max(1, BLOCK_ELEMENTS // spec.shape[1])
    blocks = [slice(start, min(start + rows, spec.shape[0])) for start in range(0, spec.shape[0], rows)]
    whole = np.ascontiguousarray(tensors.float32(name).T) if spec.stored_in_out else None

    def work(block: slice) -> tuple[Grid, float, float]:
        weight = tensors.float32(name, rows=block) if whole is None else whole[block]
        return round_block(weight, spec.format, search)

    grids, lost, total = [], 0.0, 0.0
    for grid, block_lost, block_total in pool.map(work, blocks):
        grids.append(grid)
        lost += block_lost
        total += block_total
    writer.write(f"{name}.codes", np.concatenate([grid.codes for grid in grids]))
    writer.write(f"{name}.scales", np.concatenate([grid.scales for grid in grids]))
    writer.write(f"{name}.zeros", np.concatenate([grid.zeros for grid in grids]))
    relative = math.sqrt(lost / total) if total else 0.0
    return {"relative_error": relative, "snr_db": -20 * math.log10(relative) if relative else None}


def round_block(
    weight: npt.NDArray[np.float32], form: WeightFormat, search: ScaleSearch
) -> tuple[Grid, float, float]:
    """One block's grid, its squared error and its squared norm."""
    import numpy as np

    from .grid import round_to_nearest

    grid = round_to_nearest(weight, form.bits, form.group_size, sym=form.sym, search=search)
    size = form.group_size or weight.shape[1]
    group = np.arange(weight.shape[1]) // size
    error = (grid.codes - grid.zeros.astype(np.float32)[:, group]) * grid.scales[:, group]
    error -= weight
    return grid, float(np.vdot(error, error)), float(np.vdot(weight, weight))
