"""What `quantize.static` and `quantize.smoothquant` share: how activations are rounded, and the walk."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RecipeError, nearest
from ...artifacts.schema import param
from ..model.calibration.calibrate import calibrate
from ..model.quantized import WeightFormat, WeightSpec
from .calibrated import CalibratedWeightParams
from .formats import FLOAT_BITS, Choice, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..base import Context, Result
    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture
    from .static_visitor import Rule

OBSERVERS = ("minmax", "percentile", "entropy", "mse", "best")
ACTIVATIONS = ("static", "dynamic", "none")
OVERRIDABLE: Mapping[str, tuple[str, ...]] = {"activation": ACTIVATIONS, "observer": OBSERVERS}


@dataclass(frozen=True)
class ActivationParams(CalibratedWeightParams):
    """Parameters of methods that find the range of activations beforehand."""

    bits: int = param(8, choices=(8,), doc="bits a weight; the integer matrix kernels take 8")
    group_size: int = param(0, choices=(0,), doc="a scale for each output, as those kernels take")
    lm_head_bits: int = param(
        8, choices=(8, FLOAT_BITS), doc="bits of the output head, 16 leaves it; 8 since it is a large matrix"
    )
    embedding_bits: int = param(
        8, choices=(8, FLOAT_BITS), doc="bits of the embedding, 16 leaves it; 8 costs nothing"
    )
    overrides: Mapping[str, Mapping[str, object]] | None = param(
        None,
        doc="pattern of weights → activation (static, dynamic or none) or observer for them, such as "
        '{"*.down_proj.weight": {activation: dynamic}}; the last pattern that matches has the last word',
    )
    observer: str = param(
        "mse",
        choices=OBSERVERS,
        doc="what sets the range of an activation: minmax, all of it; percentile, what most batches reach; "
        "entropy, by information lost; mse, by squared error, which measured best; best, whichever of these "
        "loses least in the products",
    )
    percentile: float = param(
        99.99,
        minimum=50.0,
        maximum=100.0,
        doc="share of values that the percentile observer keeps; 99.99 leaves the odd outlier",
    )
    activation_sym: bool = param(
        False,
        doc="zero point of activations in the middle, which TensorRT asks for; false halves the steps behind "
        "a ReLU or GELU, and costs onnxruntime nothing",
    )
    max_output_error: float = param(
        0.1,
        minimum=0.0,
        doc="relative error of the products on calibration text above which an input keeps no grid; see "
        "fallback; a tenth is where a layer begins to matter for the whole",
    )
    fallback: str = param(
        "dynamic",
        choices=("dynamic", "none", "static"),
        doc="activations of inputs whose grid loses too much: scaled for each token, in floating point, or "
        "on the grid all the same",
    )

    def choice(self) -> Choice:
        """What the parameters ask for."""
        matrix = WeightFormat(8, 0, self.sym, activation="static")
        return Choice(
            linear=matrix,
            head=matrix if self.lm_head_bits == 8 else None,
            embedding=WeightFormat(8, 0, sym=True) if self.embedding_bits == 8 else None,
            ignore=self.ignore,
        )


def formats(params: ActivationParams, model: Architecture) -> dict[str, WeightSpec]:
    """How each weight that would be quantized is stored, as far as it is known before calibration.

    A head that is the embedding stays dynamic: no kernel looks rows up and multiplies by codes on a grid.
    """
    specs = choose(model, params.choice())
    for name, rule in rules(params, model, specs).items():
        specs[name] = with_activation(specs[name], rule.activation)
    for name in model.embeddings:
        if name in specs and specs[name].format.activation == "static":
            specs[name] = with_activation(specs[name], "dynamic")
    return specs


def with_activation(spec: WeightSpec, activation: str) -> WeightSpec:
    """The same weight with activations of another kind."""
    return replace(spec, format=replace(spec.format, activation=activation))


def rules(params: ActivationParams, model: Architecture, specs: Mapping[str, WeightSpec]) -> dict[str, Rule]:
    """What is asked of the input of each map to be quantized.

    Raises RecipeError for an override of what cannot be overridden, and for a pattern that matches no weight.
    """
    from .static_visitor import Rule

    limit = math.inf if params.fallback == "static" else params.max_output_error
    common: dict[str, Any] = {
        "activation": "static", "observer": params.observer, "sym": params.activation_sym,
        "percentile": params.percentile, "limit": limit, "instead": params.fallback,
    }  # fmt: skip
    found = {linear.name: dict(common) for linear in model.linears if linear.name in specs}
    for pattern, changes in (params.overrides or {}).items():
        for key, value in changes.items():
            _check_override(pattern, key, value)
        matched = fnmatch.filter(found, pattern)
        if not matched:
            fix = f"weights are called like {next(iter(found), 'nothing')}"
            raise RecipeError(f"quantize.overrides: {pattern!r} matches no weight", fix=fix)
        for name in matched:
            found[name].update(changes)
    return {name: Rule(**each) for name, each in found.items()}


def round_static(
    context: Context[Any],
    source: Checkpoint,
    method: str,
    transforms: Sequence[Mapping[str, object]] = (),
) -> Result:
    """Calibrates a checkpoint and writes it with int8 weights and static activations.

    Raises DataError for a calibration text that cannot be used, StageError for inputs that are not finite.
    """
    from .rounding import Made, chosen, write
    from .static_visitor import StaticVisitor, grid_of

    params, model = context.params, source.architecture
    chosen(source, params.choice())
    specs = formats(params, model)
    visitor = StaticVisitor(rules(params, model, specs))
    evidence: dict[str, Any] = calibrate(context, source, visitor, "static").evidence()
    for name, entry in evidence.items():
        is_static = entry["activation"] == "static"
        specs[name] = with_activation(specs[name], entry["activation"])
        specs[name] = replace(specs[name], input=grid_of(entry) if is_static else None)
    note = describe_fallbacks(evidence)
    if note:
        context.note(note)
    if model.tied and any(
        specs[name].format.activation == "dynamic" for name in model.embeddings if name in specs
    ):
        context.note("the head is the embedding, so its activations are scaled for each token")
    count = sum(1 for entry in evidence.values() if entry["fallback"])
    made = Made(evidence=evidence, transforms=transforms, facts={"fallbacks": count})
    return write(context, source, specs, "minmax", method, made)


def describe_fallbacks(evidence: Mapping[str, Any]) -> str:
    """A remark on the inputs that keep no grid, empty where all do."""
    names = [name for name, entry in evidence.items() if entry["fallback"]]
    if not names:
        return ""
    first = evidence[names[0]]
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    return f"activations of {names[0]}{others} are {first['activation']}: {first['fallback']}"


def _check_override(pattern: str, key: str, value: object) -> None:
    label = f"quantize.overrides.{pattern}.{key}"
    if key not in OVERRIDABLE:
        guess = nearest(key, OVERRIDABLE)
        raise RecipeError(
            f"{label} is not a known name",
            fix=f"did you mean {guess}?" if guess else f"write {', '.join(OVERRIDABLE)}",
        )
    if value not in OVERRIDABLE[key]:
        raise RecipeError(f"{label}: {value!r} is not one of {', '.join(OVERRIDABLE[key])}")
