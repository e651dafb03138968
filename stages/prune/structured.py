"""`prune.structured`: channels, heads and layers go, and what stays is an ordinary smaller network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.calibration.calibrate import ComputeParams, OptionalTextParams
from ..model.channels import Group, groups, is_multi_query
from ..model.checkpoint import Checkpoint
from ..model.families import Mixture
from .amounts import check_amount, left
from .cutting import hidden_multiple, resized
from .depth import require_stack
from .single import require_single_readers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ..model.channels import Kind
    from ..model.families import Architecture

    Chosen = Sequence[tuple[Group, npt.NDArray[np.int64]]]
    Told = dict[str, object]

OBS = "obs"
MEASURED = ("activation", "taylor", OBS)
SCORINGS = (*MEASURED, "weight", "random")
AMOUNTS = ("ffn", "heads", "hidden", "experts", "layers")
# Kinds that go together; those behind them are chosen in what they leave.
ROUNDS: tuple[tuple[Kind, ...], ...] = (("experts",), ("hidden",), ("heads", "ffn"))


@dataclass(frozen=True)
class StructuredParams(ComputeParams, OptionalTextParams):
    """Parameters of `prune.structured`."""

    ffn: int | float | None = param(
        None,
        doc="share of the features within each feed-forward that goes, or how many of them; no default, as "
        "it depends on what the device saves",
    )
    heads: int | float | None = param(
        None,
        doc="share of the attention heads that goes, or how many query heads: whole groups that share a head "
        "of keys and values",
    )
    hidden: int | float | None = param(
        None,
        doc="share of the width of the state that all layers read and add to, or how many of its features; "
        "of networks with root-mean-square norms and heads of a width of their own",
    )
    experts: int | float | None = param(
        None, doc="share of the experts of every mixture that goes with its row in the router, or how many"
    )
    layers: int | float | None = param(
        None, doc="share of the layers that goes before all else, or how many: those of the least influence"
    )
    multiple_of: int = param(
        8,
        minimum=1,
        doc="what a width that a share leaves is rounded to; kernels waste the rest of a vector of 8",
    )
    scoring: str = param(
        "activation",
        choices=SCORINGS,
        doc="what tells how much a channel matters: what it adds to the output on the calibration text, what "
        "the loss of the text feels of it, obs, what of it the others cannot make up for (features and heads "
        "alone), the norm of its weights, or chance, as a control; of layers it is their influence, save by "
        "chance",
    )
    refit: bool = param(
        True,
        doc="where there is a calibration text, fit what takes channels up to what the network gave before, "
        "all that was lost in front of it included, and what attention gives behind that; it costs a second "
        "network beside the first and gives back more than half of what was lost",
    )
    feature_epochs: int | None = param(
        None,
        minimum=0,
        doc="where refit is and ffn takes features, how often the calibration text is gone through to train "
        "those that stay, layer by layer, towards what all of them gave; twice by default; fitting an 8M "
        "model left 41 % of what the cut took, 65,000 tokens once leave 24 %, twice 23 %; 0 leaves the "
        "features as they are",
    )
    damp_percent: float = param(
        0.01,
        minimum=0.0,
        maximum=1.0,
        doc="what holds refitted weights near their own: the share of its mean that is added to the diagonal "
        "of the products of inputs; a hundredth, as in methods that round",
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for amounts out of range, and where nothing would go."""
        for name in AMOUNTS:
            check_amount(f"prune.{name}", getattr(self, name))
        if all(getattr(self, name) is None for name in AMOUNTS):
            fix = f"give a share of at least one of {', '.join(AMOUNTS)}"
            raise RecipeError("prune: nothing would go", fix=fix)
        needs = self.scoring in MEASURED or (self.layers is not None and self.scoring != "random")
        if needs and self.calibration is None:
            what = f"prune.scoring: {self.scoring} is measured on a calibration text, and there is none"
            raise RecipeError(what, fix="name one under data:, or write scoring: weight")
        if self.feature_epochs and not (self.refit and self.calibration is not None and self.ffn is not None):
            what = (
                "prune.feature_epochs has no effect: features are trained where ffn takes some of them, on "
            )
            what += "the calibration text, as part of refit"
            raise RecipeError(
                what, fix="leave it out, or give ffn a share, refit: true and a calibration text"
            )
        if self.scoring == OBS and not self.refit:
            what = "prune.scoring: obs counts on the others to make up for what goes, which refit has them do"
            raise RecipeError(what, fix="leave refit true, or write scoring: activation")


def preflight(params: StructuredParams, directories: Mapping[str, Path]) -> None:
    """Raises what :func:`check` does of a model of which headers alone are known."""
    check(params, Checkpoint.open(directories["model"]))


def check(params: StructuredParams, source: Checkpoint) -> None:
    """Raises RecipeError for what cannot go from this model, or cannot be said in its config."""
    model = source.architecture
    if params.layers is not None:
        require_stack("prune.layers", model)
        left("prune.layers", params.layers, len(model.layers), "layers")
    for kinds in ROUNDS:
        counts = list(amounts(params, source.architecture, kinds))
        if params.scoring == OBS:
            require_single_readers([group for group, _ in counts])
        source = replace(source, config=resized(source, counts))


def amounts(
    params: StructuredParams, model: Architecture, kinds: tuple[Kind, ...]
) -> Iterator[tuple[Group, int]]:
    """Every group of some kinds that loses channels, and how many of them stay.

    Raises RecipeError for kinds that the model has none of or cannot lose, and amounts that leave none.
    """
    for kind in kinds:
        amount = getattr(params, kind)
        if amount is None:
            continue
        _require(kind, model)
        for group in groups(model, kind):
            yield group, _left(params, model, group, amount)


def _require(kind: Kind, model: Architecture) -> None:
    """Raises RecipeError where a network has no such channels, or cannot compute without some of them."""
    if kind == "hidden" and model.norm == "layer":
        raise RecipeError(
            f"prune.hidden: the norms of {model.model_type} take the mean over all features away, which is "
            "another one where some are gone",
            fix="prune ffn, heads or layers of this model",
        )
    if kind == "experts" and not any(isinstance(layer.feed_forward, Mixture) for layer in model.layers):
        what = f"prune.experts: {model.model_type} has no mixture of experts"
        raise RecipeError(what, fix="prune ffn of this model")


def _left(params: StructuredParams, model: Architecture, group: Group, amount: float) -> int:
    label = f"prune.{group.kind}"
    if group.kind == "ffn":
        return left(label, amount, group.count, f"features in {group.label}", params.multiple_of)
    if group.kind == "hidden":
        multiple = hidden_multiple(model, params.multiple_of)
        return left(label, amount, group.count, "features of the state", multiple)
    if group.kind == "experts":
        stay = left(label, amount, group.count, "experts")
        chosen = next(form.chosen for form in _mixtures(model))
        if stay < chosen:
            what = f"{label}: {stay} experts would stay, and each token goes through {chosen}"
            raise RecipeError(what, fix=f"take at most {group.count - chosen}")
        return stay
    per = 1 if is_multi_query(model) else model.heads // model.kv_heads
    if isinstance(amount, int) and amount % per:
        raise RecipeError(
            f"{label}: {amount} query heads are not whole groups, {per} of which share a head of keys and "
            "values",
            fix=f"take a multiple of {per}",
        )
    unit = f"groups of {per} heads" if per > 1 else "heads"
    return left(label, amount, group.count, f"{unit} in {group.label}", each=per)


@stage(
    "prune.structured",
    params=StructuredParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=4,
    determinism="seeded",
    tools=("numpy", "tokenizers", "torch"),
    summary="Take features, heads and layers away for good: a smaller checkpoint that loads everywhere",
    preflight=preflight,
)
def run(context: Context[StructuredParams]) -> Result:
    """Writes the checkpoint `model` without the channels and layers that matter least.

    Raises RecipeError for what cannot go from this model, DataError for a calibration text that cannot be
    used, StageError for activations that are not finite.
    """
    from .chosen import choose
    from .cutting import narrowed
    from .smaller import write

    params, source = context.params, Checkpoint.open(context.inputs["model"].path)
    check(params, source)
    now, facts, observed = source, dict[str, object](), dict[str, object]()
    if params.layers is not None:
        now, facts, observed = _shallower(context, source)
    widths: list[dict[str, object]] = []
    evidence: dict[str, object] = {}
    for kinds in ROUNDS:
        counts = list(amounts(params, now.architecture, kinds))
        if not counts:
            continue
        found = choose(context, now, counts, kinds[0])
        made_up = _made_up(now, counts, found.kept, found.energies)
        now = narrowed(now, found.kept, found.changed, made_up)
        evidence |= found.told
        widths += [
            {
                "kind": group.kind,
                "where": group.label,
                "layer": group.layer,
                "before": group.count,
                "after": count,
            }
            for group, count in counts
        ]
    facts |= {"pruned_by": "structured", "scoring": params.scoring, "widths": widths}
    observed["tensors"] = evidence
    return write(context, now, facts, observed)


def _shallower(context: Context[StructuredParams], source: Checkpoint) -> tuple[Checkpoint, Told, Told]:
    """The checkpoint without layers, and what is said of that as facts and as observed."""
    import numpy as np

    from .cutting import without_layers
    from .depth import influence_of, least_influential, told

    params, total = context.params, len(source.architecture.layers)
    influence = influence_of(context, source) if params.calibration else []
    chance = np.random.Generator(np.random.PCG64(context.seed)).random(total).tolist()
    going = total - left("prune.layers", params.layers or 0, total, "layers")
    gone = least_influential(chance if params.scoring == "random" else influence, going)
    made = without_layers(source, [layer for layer in range(total) if layer not in gone])
    return made, {"layers_dropped": gone, "layers_before": total}, told(influence, gone)


def _made_up(
    source: Checkpoint,
    counts: Sequence[tuple[Group, int]],
    chosen: Chosen,
    energies: Mapping[str, npt.NDArray[np.float64]],
) -> dict[str, float]:
    """What gains and embeddings are multiplied by, where the state is narrower."""
    from .state import factors

    for group, channels in chosen:
        if group.kind == "hidden":
            after = replace(source, config=resized(source, counts)).architecture
            return factors(source.architecture, after, source.tensors, channels, energies)
    return {}


def _mixtures(model: Architecture) -> Iterator[Mixture]:
    yield from (layer.feed_forward for layer in model.layers if isinstance(layer.feed_forward, Mixture))
