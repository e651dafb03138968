"""`regmean`: each linear map such that it comes nearest to what every model's own makes of its own inputs.

argmin over W of Σ wᵢ E‖W x − Wᵢ x‖², x being the inputs that model i's map has over a calibration text, is
(Σ wᵢ Wᵢ Gᵢ)(Σ wᵢ Gᵢ)⁻¹ with Gᵢ = E[x xᵀ] (Jin, Ren, Preotiuc-Pietro, Cheng: Dataless knowledge fusion by
merging weights of language models, arXiv:2212.09849). What lies off the diagonal is scaled by α. All else is
averaged by weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..method import Method, Parameter
from ..stage import merge_stage
from ..statistics import Statistic, check, statistics

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import torch

    from ...base import Context
    from ...model.calibration.journal import Results
    from ...model.calibration.walk import Stop
    from ...model.checkpoint import Checkpoint
    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..task import Operand, TensorTask

# Of the mean square of inputs, added to every model's: features that no text reaches are averaged.
RIDGE = 1e-6


class _Products:
    """Takes E[x xᵀ] at every stop, once for all maps that read the same input."""

    compares = False

    def __init__(self, wanted: Collection[str]) -> None:
        self.wanted = wanted
        self._found: dict[str, Any] = {}
        self._shared: dict[str, object] = {}

    def visit(self, stop: Stop) -> None:
        """Adds up a stop's inputs."""
        from ...model.calibration.gram import gram

        names = [linear.name for linear in stop.linears if linear.name in self.wanted]
        self._found[names[0]] = (gram(stop.inputs, stop.pool) / max(stop.rows, 1)).cpu().numpy()
        self._shared |= dict.fromkeys(names, names[0])

    def collect(self) -> tuple[Results, Mapping[str, object]]:
        """Products by the first map that reads an input; by map, which that is."""
        found, shared = self._found, self._shared
        self._found, self._shared = {}, {}
        return found, shared


def measure(context: Context[Any], source: Checkpoint) -> Mapping[str, Statistic]:
    """The inputs' products of every linear map but one that is the tokens' embedding as well."""
    from ...model.calibration.calibrate import calibrate
    from ..operands import StoredOperand

    model = source.architecture
    axes = {each.name: 0 if each.stored_in_out else 1 for each in model.linears}
    axes.pop(model.embedding, None)
    journal = calibrate(context, source, _Products(axes))
    found = journal.results()
    return {
        name: Statistic(StoredOperand(found, "products", str(first)), axes[name])
        for name, first in journal.evidence().items()
    }


def merge(task: TensorTask, _blocks: Blocks) -> Kernel | Operand:
    """The nearest map; of what is none, the average."""
    import torch

    found = statistics(task)
    weights = task.numbers("weight")
    if found is None:
        shares = [torch.tensor(weight / sum(weights)) for weight in weights]

        def averaged(block: Block) -> torch.Tensor:
            total, values = block.new().zero_(), block.new()
            for each, share in zip(task.inputs, shares, strict=True):
                total.addcmul_(block.read(each.operand, values), share)
            return total

        return averaged

    alpha = task.number("alpha")

    def solved(block: Block) -> torch.Tensor:
        products = [weight * _matrix(each.operand) for each, weight in zip(found, weights, strict=True)]
        maps = [block.read(each.operand).view(task.output.shape).double() for each in task.inputs]
        is_turned = found[0].axis == 0
        merged = nearest([each.T if is_turned else each for each in maps], products, alpha)
        return (merged.T if is_turned else merged).float().reshape(-1)

    return solved


def nearest(maps: Sequence[torch.Tensor], products: Sequence[torch.Tensor], alpha: float) -> torch.Tensor:
    """(Σ Wᵢ Gᵢ)(Σ Gᵢ)⁻¹ of maps [out, in] and products [in, in] of which α lies off the diagonal; float64."""
    import torch

    scaled = [alpha * each + (1 - alpha) * torch.diag(each.diagonal()) for each in products]
    total: torch.Tensor = torch.stack([each.diagonal() for each in scaled]).sum(0)
    ridge = RIDGE * float(total.mean()) / len(maps) or 1.0
    for each in scaled:
        each.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(torch.stack(scaled).sum(0))
    right = torch.stack([w @ g for w, g in zip(maps, scaled, strict=True)]).sum(0)
    return torch.cholesky_solve(right.T, factor).T


def _matrix(operand: Operand) -> torch.Tensor:
    import torch

    width = operand.shape[0]
    found = torch.empty(width * width)
    operand.read(0, width * width, found)
    return found.view(width, width).double()


METHOD = Method(
    "regmean",
    merge,
    check=check,
    summary="Linear maps nearest to what each model's own makes of its inputs; the rest averaged",
    paper="arXiv:2212.09849",
    unit="tensor",
    statistics=measure,
    parameters=(
        Parameter(
            "weight", "the model's share beside its inputs; alike, as in the paper, unless set",
            scope="input", default=1.0, minimum=0.0,
        ),
        Parameter(
            "alpha", "how much of the products between features counts; 0.9 is what the paper found to hold",
            default=0.9, minimum=0.0, maximum=1.0,
        ),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
