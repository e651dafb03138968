"""What all quantizers end in: a checkpoint written as the one quantized form, weight by weight.

`quantize.rtn` and `quantize.dynamic` round every weight here; calibrated methods bring what they made of
theirs, and the rest is rounded beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import StageError
from ...artifacts.tensors import TensorSource
from ..model.checkpoint import WEIGHTS_FILE, Checkpoint
from ..model.quantized import WeightFormat, WeightSpec, record_json, weights_by_width
from .formats import choose
from .zeros import Zeros

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..base import Context, Result
    from .formats import Choice
    from .grid import Grid, ScaleSearch

# Half a million weights and the buffers of the scale search stay in a core's cache.
BLOCK_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class Made:
    """What a calibrated method brings. tensors: codes, scales and zeros of weights, and float32 tensors that
    take the place of the checkpoint's own.

    evidence: what was observed, by weight, also of weights that are rounded here.  transforms: what was
    folded into the network, for the record.  is_sparse: False where zeros among the weights are not those of
    pruning, so that nobody is to count them.
    """

    tensors: TensorSource | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    transforms: Sequence[Mapping[str, object]] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    is_sparse: bool = True

    def holds(self, name: str) -> bool:
        """Whether it brings the tensor of that name."""
        return self.tensors is not None and name in self.tensors


NOTHING = Made()


def quantize(context: Context[Any], choice: Choice, search: ScaleSearch, method: str) -> Result:
    """Rounds a checkpoint by ``choice`` and writes the quantized form, one weight in memory at a time.

    Raises StageError when not a single linear layer would be quantized.
    """
    source = Checkpoint.open(context.inputs["model"].path)
    return write(context, source, chosen(source, choice), search, method)


def chosen(source: Checkpoint, choice: Choice) -> dict[str, WeightSpec]:
    """The weights of a checkpoint to quantize; raises StageError when no linear layer is among them."""
    model = source.architecture
    specs = choose(model, choice)
    if not any(linear.name in specs for linear in model.linears):
        raise StageError("no linear weight would be quantized", fix="ignore less, or drop the quantize stage")
    return specs


def write(
    context: Context[Any],
    source: Checkpoint,
    specs: Mapping[str, WeightSpec],
    search: ScaleSearch,
    method: str,
    made: Made = NOTHING,
) -> Result:
    """Writes the quantized form: what was ``made`` as it is, the other weights of ``specs`` rounded."""
    from ..base import Result

    source.copy_sidecars(context.output)
    errors, counted = write_weights(context, source, specs, search, made)
    context.output.write_json("quantization.json", record_json(method, specs, made.transforms))
    floats: dict[str, tuple[int, int]] = {}
    for name in source.tensors.names():
        if name not in specs:
            info = source.tensors.info(name)
            dtype = "f32" if made.holds(name) else info.dtype.lower()
            tensors, parameters = floats.get(dtype, (0, 0))
            floats[dtype] = (tensors + 1, parameters + info.count)
    linear = [specs[item.name] for item in source.architecture.linears if item.name in specs]
    zeros = counted.facts if made.is_sparse else {}
    if (lost := 1 - zeros.get("zeros_kept", 1.0)) > 0:
        context.note(f"{lost:.2%} of the zeros of a sparse checkpoint are none any more")
    facts = {
        **context.inputs["model"].facts,
        "method": method,
        "weights_by_width": weights_by_width(specs, floats),
        "bits_per_weight": round(
            sum(spec.payload_bits for spec in linear) / sum(spec.parameters for spec in linear), 4
        ),
        **zeros,
        **made.facts,
    }
    return Result(facts, observed={"tensors": errors})


def write_weights(
    context: Context[Any],
    source: Checkpoint,
    specs: Mapping[str, WeightSpec],
    search: ScaleSearch,
    made: Made = NOTHING,
) -> tuple[dict[str, object], Zeros]:
    """Streams every tensor to `model.safetensors`; gives what was observed of each quantized one, and the
    zeros of linear weights, counted on the way.
    """
    from ...artifacts.tensors import SafetensorsWriter, TensorShape

    names = source.tensors.names()
    layout: list[TensorShape] = []
    for name in names:
        if spec := specs.get(name):
            layout += spec.layout(name)
        else:
            info = source.tensors.info(name)
            layout.append(TensorShape(name, "F32" if made.holds(name) else info.dtype, info.shape))
    errors: dict[str, object] = {}
    zeros: dict[str, Zeros] = {}
    with (
        context.output.create(WEIGHTS_FILE) as stream,
        SafetensorsWriter(stream, layout) as writer,
        ThreadPoolExecutor(context.threads) as pool,
    ):
        for done, name in enumerate(names):
            context.progress(done, len(names), name)
            if made.holds(f"{name}.codes"):
                errors[name] = made.evidence[name]
                if made.is_sparse:
                    zeros[name] = count_made(source.tensors, made, name, specs[name])
                for part in specs[name].layout(name):
                    copy(writer, made.tensors, part.name)
            elif spec := specs.get(name):
                work = write_quantized if spec.format.numeric == "int" else write_levels
                rounded, zeros[name] = work(writer, pool, source.tensors, name, spec, search)
                errors[name] = {**rounded, **made.evidence.get(name, {})}
            else:
                copy(writer, made.tensors if made.holds(name) else source.tensors, name)
    context.progress(len(names), len(names), "written")
    linears = [linear.name for linear in source.architecture.linears]
    return errors, Zeros.sum(zeros[name] for name in linears if name in zeros)


def count_made(tensors: TensorSource, made: Made, name: str, spec: WeightSpec) -> Zeros:
    """The zeros of a weight that a calibrated method brings the codes of."""
    if made.tensors is None:
        raise AssertionError("nothing was brought")
    weight = tensors.float32(name)
    tensors.release(name)
    zeros = made.tensors.array(f"{name}.zeros") if spec.format.numeric == "int" else None
    codes = made.tensors.array(f"{name}.codes")
    return Zeros.count(weight.T if spec.stored_in_out else weight, codes, zeros, spec)


def copy(writer: Any, tensors: TensorSource | None, name: str) -> None:
    """Writes a tensor's bytes as they are stored."""
    if tensors is not None:
        writer.write(name, tensors.raw(name))


def write_quantized(
    writer: Any,
    pool: ThreadPoolExecutor,
    tensors: TensorSource,
    name: str,
    spec: WeightSpec,
    search: ScaleSearch,
) -> tuple[dict[str, float | None], Zeros]:
    """Rounds one weight in blocks of rows and writes its codes, scales and zeros.

    Gives relative_error, ‖W − Ŵ‖ / ‖W‖ (Frobenius), and snr_db, −20 log10 of it, None for a weight without
    error: what is observed is JSON, which has no infinity. Beside it, what zeros it has and keeps.
    """
    import numpy as np

    rows = reader(tensors, name, spec)

    def work(block: slice) -> tuple[Grid, float, float, Zeros]:
        weight = rows(block)
        grid, lost, total = round_block(weight, spec.format, search)
        return grid, lost, total, Zeros.count(weight, grid.codes, grid.zeros, spec)

    grids, counts, lost, total = [], [], 0.0, 0.0
    for grid, block_lost, block_total, counted in pool.map(work, row_blocks(spec)):
        grids.append(grid)
        counts.append(counted)
        lost += block_lost
        total += block_total
    writer.write(f"{name}.codes", np.concatenate([grid.codes for grid in grids]))
    writer.write(f"{name}.scales", np.concatenate([grid.scales for grid in grids]))
    writer.write(f"{name}.zeros", np.concatenate([grid.zeros for grid in grids]))
    return observed(lost, total), Zeros.sum(counts)


def write_levels(
    writer: Any,
    pool: ThreadPoolExecutor,
    tensors: TensorSource,
    name: str,
    spec: WeightSpec,
    search: ScaleSearch,
) -> tuple[dict[str, float | None], Zeros]:
    """Rounds one weight to the levels of its format, in blocks of rows; gives the same as the above.

    Scales come first, and where they are quantized themselves, codes are chosen for what became of them.
    """
    import numpy as np

    from ..model.levels import levels
    from . import floating

    form, rows, blocks = spec.format, reader(tensors, name, spec), row_blocks(spec)
    spans = np.concatenate(list(pool.map(lambda b: floating.largest(rows(b), form.group_size), blocks)))
    if search == "tensor":
        spans[:] = spans.max()
    scales = floating.scales_of(spans, form)
    double = floating.double(scales) if form.double_quantized else None
    scales = double.values() if double else scales
    group = np.arange(spec.shape[1]) // (form.group_size or spec.shape[1])

    def work(block: slice) -> tuple[npt.NDArray[np.uint8], float, float, Zeros]:
        weight = rows(block)
        codes = floating.encode(weight, scales[block], form)
        error = levels(form.numeric)[codes] * scales[block][:, group] - weight
        zeros = Zeros.count(weight, codes, None, spec)
        return codes, float(np.vdot(error, error)), float(np.vdot(weight, weight)), zeros

    found = list(pool.map(work, blocks))
    writer.write(f"{name}.codes", np.concatenate([codes for codes, *_ in found]))
    writer.write(f"{name}.scales", scales)
    if double:
        writer.write(f"{name}.scale_codes", double.codes)
        writer.write(f"{name}.scale_scales", double.scales)
        writer.write(f"{name}.scale_offset", double.offset)
    evidence = observed(sum(lost for _, lost, _, _ in found), sum(total for _, _, total, _ in found))
    return evidence, Zeros.sum(counted for *_, counted in found)


def row_blocks(spec: WeightSpec) -> list[slice]:
    """The rows of a weight in blocks that stay in a core's cache."""
    rows = max(1, BLOCK_ELEMENTS // spec.shape[1])
    return [slice(start, min(start + rows, spec.shape[0])) for start in range(0, spec.shape[0], rows)]


def reader(tensors: TensorSource, name: str, spec: WeightSpec) -> Callable[[slice], npt.NDArray[np.float32]]:
    """What gives rows of a weight [out, in] in float32, whichever way it is stored."""
    import numpy as np

    if spec.stored_in_out:
        whole = np.ascontiguousarray(tensors.float32(name).T)
        return lambda block: whole[block]
    return lambda block: tensors.float32(name, rows=block)


def observed(lost: float, total: float) -> dict[str, float | None]:
    """A squared error beside the squared norm it is of, as a share and in decibels."""
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
