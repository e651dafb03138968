"""Carries out a merge: tensor by tensor, in blocks, into safetensors files that are hashed on the way.

Memory that the system cannot take back is bounded by the number of threads and the size of blocks, whatever
the size of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.digest import digest_json
from ...artifacts.errors import InputError
from ...artifacts.tensor_header import DTYPE_BITS
from ..model import shards
from ..model.checkpoint import INDEX_FILE
from ..model.dtypes import NAMES
from . import native
from .blocks import Workers
from .draft import Draft
from .making import make

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ...artifacts.outbox import Outbox
    from ..base import Progress
    from .method import Method
    from .task import TensorTask


def execute(
    tasks: Sequence[TensorTask],
    methods: Mapping[str, Method],
    output: Outbox,
    *,
    job: Path,
    seed: int,
    threads: int,
    progress: Progress,
    max_shard_bytes: int | None = None,
    block_elements: int | None = None,
) -> Mapping[str, object]:
    """Writes every task's tensor into `model.safetensors`, or into shards and an index; what was observed.

    methods: those that tasks name.  job: a directory where finished tensors outlive a kill, and are found by
    a later call that is the same.  max_shard_bytes: of a file, above which weights are split; None keeps one
    file.  Neither threads nor ``block_elements`` change a byte.  Raises InputError, before anything is
    written, for a task that cannot be carried out.
    """
    for task in tasks:
        check(task, methods[task.method])
    files = shards.split(([task] for task in tasks), lambda task: task.output, max_shard_bytes)
    files = [sorted(held, key=lambda task: -DTYPE_BITS[task.output.dtype]) for held in files]
    named = dict(zip(shards.file_names(len(files)), files, strict=True))
    total, done, resumed = sum(task.output.nbytes for task in tasks), 0, 0
    drafts = []
    with Workers(threads) as workers:
        for name, held in named.items():
            layout = [task.output for task in held]
            with Draft(job, name, layout, fingerprint(held, seed)) as draft:
                drafts.append(draft)
                resumed += draft.finished
                done += sum(shape.nbytes for shape in layout[: draft.finished])
                for task in held[draft.finished :]:
                    progress(done, total, task.output.name)
                    draft.write(make(task, methods[task.method], workers, seed, block_elements))
                    done += task.output.nbytes
                    for operand in task.operands():
                        operand.release()
    # The files leave the job's directory at last, all at once: until here a kill has cost one tensor.
    for draft in drafts:
        output.adopt(draft.file, draft.name)
    if len(files) > 1:
        held_by = {name: [task.output for task in held] for name, held in named.items()}
        output.write_json(INDEX_FILE, shards.index(held_by))
    progress(total, total, "merged")
    kernels = "torch" if native.library() is None else "c"
    return {"tensors": len(tasks), "resumed_tensors": resumed, "kernels": kernels}


def fingerprint(tasks: Sequence[TensorTask], seed: int) -> str:
    """A digest of all that tasks say; what their operands hold is for the caller to tell apart."""
    return digest_json([seed, *(_described(task) for task in tasks)])


def _described(task: TensorTask) -> list[object]:
    output = task.output
    inputs = [[each.operand.label, dict(each.parameters)] for each in task.inputs]
    base = task.base.label if task.base else None
    return [output.name, output.dtype, output.shape, task.method, base, inputs, dict(task.parameters)]


def check(task: TensorTask, method: Method) -> None:
    """Raises InputError for operands of another shape than the output, or of no fit dtype, and for what the
    method itself refuses.
    """
    output = task.output
    for operand in task.operands():
        if operand.shape != output.shape:
            what = f"{operand.label} has the shape {list(operand.shape)}, not {list(output.shape)}"
            raise InputError(what, where=output.name)
        dtype = operand.stored.dtype if operand.stored else "F32"
        is_alone = len(task.operands()) == 1 and dtype == output.dtype
        if dtype not in NAMES and not is_alone:
            what = f"{operand.label} is {dtype}, which no arithmetic is done on"
            raise InputError(what, where=output.name)
    if method.check is not None:
        method.check(task)
