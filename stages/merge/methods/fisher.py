"""`fisher`: the average of the models, each element weighted by how much its model's predictions feel it.

Σ wᵢ Fᵢ xᵢ / Σ wᵢ Fᵢ with Fᵢ the diagonal of the Fisher information over a calibration text: the mode of the
product of Gaussians that stand for the models' posteriors (Matena and Raffel, arXiv:2111.09832).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..method import Method, Parameter
from ..stage import merge_stage
from ..statistics import Statistic, check, statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ...base import Context
    from ...model.checkpoint import Checkpoint
    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask


def measure(context: Context[Any], source: Checkpoint) -> Mapping[str, Statistic]:
    """The information of every tensor that the network computes with, kept in the job's directory."""
    import torch

    from ....artifacts.digest import digest_json
    from ...model.calibration.calibrate import calibration_text, choose_device, shelf_of
    from ...model.calibration.journal import Journal
    from ...model.calibration.weight_fisher import weight_fisher
    from ..operands import StoredOperand

    samples, device = calibration_text(context, source), choose_device(context.params.device)
    fingerprint = digest_json({
        "samples": samples.digest, "seed": context.seed, "input": context.inputs["model"].digest,
        "device": str(device), "torch": torch.__version__,
    })  # fmt: skip
    journal = Journal(context.job, fingerprint)
    if END not in journal.steps():
        journal = Journal(context.job, fingerprint)
        shelf = shelf_of(context.params, context.job)
        for part, squares in weight_fisher(
            source.architecture, source.tensors, samples.batches, shelf, device, context.threads,
            context.seed, context.progress,
        ):  # fmt: skip
            kept = {name: value.contiguous().cpu().numpy() for name, value in squares.items()}
            journal.save(part, kept, {}, [])
        journal.save(END, {}, {}, [])
    found = journal.results()
    return {name: Statistic(StoredOperand(found, "information", name)) for name in found.names()}


# The step that says that a journal is whole.
END = "end"


def merge(task: TensorTask, _blocks: Blocks) -> Kernel | Operand:
    """The weighted average; the plain one, by weight, where no model feels an element."""
    import torch

    found = statistics(task)
    weights = task.numbers("weight")

    def kernel(block: Block) -> torch.Tensor:
        total, divisor = block.new().zero_(), block.new().zero_()
        plain, values, felt = block.new().zero_(), block.new(), block.new()
        for number, (each, weight) in enumerate(zip(task.inputs, weights, strict=True)):
            block.read(each.operand, values)
            plain.add_(values, alpha=weight)
            if found is not None:
                block.read(found[number].operand, felt).mul_(weight)
                divisor.add_(felt)
                total.add_(values.mul_(felt))
        is_felt = divisor > 0
        average = plain.div_(sum(weights))
        return torch.where(is_felt, total.div_(divisor.masked_fill_(~is_felt, 1)), average)

    return kernel


METHOD = Method(
    "fisher",
    merge,
    check=check,
    summary="The average of the models, by how much each one's predictions feel an element",
    paper="arXiv:2111.09832",
    is_random=True,
    statistics=measure,
    parameters=(
        Parameter(
            "weight", "the model's share beside its information; alike, as in the paper, unless set",
            scope="input", default=1.0, minimum=0.0,
        ),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
