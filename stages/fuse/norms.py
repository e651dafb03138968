"""`fuse.norms`: the gains and shifts of norms in the maps that read them, and the network as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError, StageError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.dtypes import NAMES, STORED, with_dtype

if TYPE_CHECKING:
    from .norm_fold import NormFolds

BASE = "base"
# By how coarsely they round.
NARROW = ("BF16", "F16", "F32", "F64")
SHOWN_DIGITS = 4


@dataclass(frozen=True)
class NormsParams:
    """Parameters of `fuse.norms`."""

    dtype: str = param(
        "float32",
        choices=(BASE, *STORED),
        doc="of the weights written; float32, since half precision would round folded weights once more; "
        "base keeps that of each tensor",
    )


@stage(
    "fuse.norms",
    params=NormsParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=("numpy", "torch"),
    summary="Fold the gains and shifts of norms into the maps behind them: the same function, gains of one",
    same_function=True,
)
def run(context: Context[NormsParams]) -> Result:
    """Writes the checkpoint `model` with gains of one wherever maps alone read a norm; see `norm_fold.py`.

    Both networks then take short rows of tokens through, block by block. Raises InputError for a network
    without such a norm, StageError where the two differ or a weight is past what its dtype holds.
    """
    import numpy as np

    from ...artifacts.tensors import SafetensorsWriter, TensorShape
    from ..model.checkpoint import WEIGHTS_FILE, Checkpoint
    from ..model.sameness import require_same
    from .low_rank import rounded
    from .norm_fold import NormFolds

    source = Checkpoint.open(context.inputs["model"].path)
    tensors, dtype = source.tensors, context.params.dtype
    todo = NormFolds.of(source.architecture, tensors)
    if not todo.by_gain:
        raise InputError(
            f"{source.architecture.model_type}: no norm is read by maps alone, so none can be folded",
            fix="leave fuse.norms out for this model",
        )
    infos = [tensors.info(name) for name in tensors.names()]
    layout = [
        TensorShape(
            each.name, STORED.get(dtype, each.dtype) if each.dtype in NAMES else each.dtype, each.shape
        )
        for each in infos
    ]
    source.copy_sidecars(context.output, source.config if dtype == BASE else with_dtype(source.config, dtype))
    with context.output.create(WEIGHTS_FILE) as file, SafetensorsWriter(file, layout) as writer:
        for done, (info, shape) in enumerate(zip(infos, layout, strict=True)):
            context.progress(done, len(layout), info.name)
            if info.name in todo or info.dtype != shape.dtype:
                value = (
                    todo.changed(info.name, tensors)
                    if info.name in todo
                    else tensors.float32(info.name).astype(np.float64)
                )
                try:
                    stored = rounded(value, shape.dtype)
                except FloatingPointError:
                    what = f"{info.name} has values that {shape.dtype} cannot hold"
                    raise StageError(what, fix="write fuse.dtype: float32") from None
                writer.write(info.name, stored.view("u1").reshape(-1))
            else:
                writer.write(info.name, tensors.raw(info.name))
            tensors.release(info.name)
    narrowest = min((each.dtype for each in layout if each.dtype in NAMES), key=NARROW.index)
    found = require_same(source, Checkpoint.open(context.output.payload), "fuse.norms", narrowest)
    context.progress(len(layout), len(layout), "folded, and found to compute the same")
    _note(context, todo)
    facts = {
        **context.inputs["model"].facts,
        **({} if dtype == BASE else {"dtype": dtype}),
        "weight_bytes": (context.output.payload / WEIGHTS_FILE).stat().st_size,
        "folded_norms": len(todo.by_gain),
    }
    error = float(f"{found.error / found.largest:.{SHOWN_DIGITS}g}")
    return Result(facts, {"relative_error": error, "same_top1": found.top1})


def _note(context: Context[NormsParams], todo: NormFolds) -> None:
    """Which norms stay, and why."""
    reasons: dict[str, list[str]] = {}
    for name, reason in todo.left.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if names[1:] else ""
        context.note(f"{names[0]}{more} stays as it is: it {reason}")
