"""A checkpoint with factored weights: two tensors in place of each, and the ranks in its config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...artifacts.tensors import SafetensorsWriter, TensorShape
from ..base import Result
from ..model.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from ..model.dtypes import NAMES
from ..model.families.compact import Compact, first_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..base import Context
    from ..model.checkpoint import Checkpoint
    from ..model.families import Linear
    from .factored import Factored

NAMED_IN_NOTES = 3


def write(
    context: Context[Any],
    source: Checkpoint,
    linears: Mapping[str, Linear],
    ranks: Mapping[str, int | None],
    factored: Callable[[str], Factored],
    method: str,
    evidence: Mapping[str, Any],
) -> Result:
    """Writes the checkpoint with the two maps of each weight that has a rank; all else byte for byte.

    factored: gives them by the weight's name.  evidence: what was observed of weights.
    """
    known = Compact.of(source.config, str(source.directory / CONFIG_FILE))
    chosen = {name: rank for name, rank in ranks.items() if rank is not None}
    compact = Compact({**known.factored, **chosen}, known.shared)
    source.copy_sidecars(context.output, compact.config(source.config))
    _write_tensors(context, source, linears, chosen, factored)
    whole = [name for name, rank in ranks.items() if rank is None]
    if whole:
        more = f" and {len(whole) - NAMED_IN_NOTES} more" if len(whole) > NAMED_IN_NOTES else ""
        listed = ", ".join(whole[:NAMED_IN_NOTES])
        spends = context.params.budget is not None
        why = "where the budget is spent best" if spends else "since two maps save nothing"
        context.note(f"{len(whole)} of {len(ranks)} weights stay whole, {why}: {listed}{more}")
    before = sum(source.tensors.info(name).count for name in ranks)
    after = sum(_kept(linears[name], rank) for name, rank in ranks.items())
    return Result(
        {
            **context.inputs["model"].facts,
            "parameters": int(str(context.inputs["model"].facts["parameters"])) + after - before,
            "weight_bytes": (context.output.payload / WEIGHTS_FILE).stat().st_size,
            "factored_by": method,
            "rank_by_weight": dict(ranks),
            "factored_parameters": {"before": before, "after": after},
            "kept": round(after / before, 6),
        },
        observed={"tensors": {name: {"rank": ranks[name], **evidence.get(name, {})} for name in ranks}},
    )


def _write_tensors(
    context: Context[Any],
    source: Checkpoint,
    linears: Mapping[str, Linear],
    ranks: Mapping[str, int],
    factored: Callable[[str], Factored],
) -> None:
    """Writes all tensors, one in memory at a time. ranks: of those that become two maps."""
    names = source.tensors.names()
    layout = [shape for name in names for shape in _shapes(source, linears, ranks, name)]
    with context.output.create(WEIGHTS_FILE) as stream, SafetensorsWriter(stream, layout) as writer:
        for done, name in enumerate(names):
            context.progress(done, len(names), name)
            if name not in ranks:
                writer.write(name, source.tensors.raw(name))
            else:
                made, linear, dtype = factored(name), linears[name], source.tensors.info(name).dtype
                for each, value in ((first_name(name), made.first), (name, made.second)):
                    stored = np.ascontiguousarray(value.T if linear.stored_in_out else value)
                    narrow = torch.from_numpy(stored).to(getattr(torch, NAMES[dtype]))
                    writer.write(each, narrow.reshape(-1).view(torch.uint8).numpy())
            source.tensors.release(name)
    context.progress(len(names), len(names), "written")


def _kept(linear: Linear, rank: int | None) -> int:
    values, step = linear.in_features * linear.out_features, linear.in_features + linear.out_features
    return values if rank is None else rank * step


def _shapes(
    source: Checkpoint, linears: Mapping[str, Linear], ranks: Mapping[str, int], name: str
) -> list[TensorShape]:
    info = source.tensors.info(name)
    if name not in ranks:
        return [TensorShape(name, info.dtype, info.shape)]
    linear, rank = linears[name], ranks[name]
    first, second = (rank, linear.in_features), (linear.out_features, rank)
    if linear.stored_in_out:
        first, second = (first[1], first[0]), (second[1], second[0])
    return [TensorShape(first_name(name), info.dtype, first), TensorShape(name, info.dtype, second)]
