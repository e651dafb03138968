"""The stages `merge`, which takes a recipe of mergekit's, and `merge.METHOD`, one for every method.

A method's own stage takes Ingot's short form; its parameters are those of the method and of every merge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..base import Context, Expansion, Result, Stage, stage
from ..model.calibration.calibrate import CalibratedParams
from ..model.dtypes import STORED
from .config import read_file, read_short, renamed
from .method import REQUIRED, get, load_method_file, refuse_statistics
from .recipe import Recipe
from .references import Given, Inputs

if TYPE_CHECKING:
    from .method import Method, Parameter

INPUTS = {"model": ("checkpoint",)}
TOOLS = ("numpy", "torch")
# What a value may be beside one number: a list over the layers, or one for each filter.
Spread = float | tuple[object, ...] | Mapping[str, object] | None
Count = int | tuple[object, ...] | Mapping[str, object] | None
Switch = bool | tuple[object, ...] | Mapping[str, object] | None


@dataclass(frozen=True)
class WrittenParams:
    """What every merge has beside what is merged."""

    max_shard_mb: int | None = param(
        None,
        minimum=1,
        doc="megabytes of a file of weights, above which they are split; by default they are one",
    )
    texts: tuple[str, ...] | None = param(
        None,
        is_file=True,
        doc="held-out texts, such as one of what each model is good at: what the merge, and each model "
        "alone, makes of them is measured and reported",
    )
    text_windows: int = param(
        64,
        minimum=1,
        doc="windows of 256 tokens of each of `texts`, fewer tokens where the context is shorter",
    )
    titles: Mapping[str, str] | None = param(
        None, in_key=False, internal=True, doc="what messages call each input"
    )


NOT_MERGED = frozenset(field.name for field in dataclasses.fields(WrittenParams))


@dataclass(frozen=True)
class MergeParams(WrittenParams):
    """Parameters of `merge`."""

    config: str | None = param(None, in_key=False, doc="a recipe of mergekit's; what it says enters the key")
    method_file: str | None = param(
        None,
        is_file=True,
        doc="a Python file that defines the merge method, METHOD, for a method of your own",
    )
    recipe: Mapping[str, object] | None = param(
        None, internal=True, doc="what the file says, with inputs in place of models"
    )


@dataclass(frozen=True)
class ShortParams(WrittenParams):
    """Parameters that every `merge.METHOD` has."""

    models: tuple[object, ...] | None = param(
        None, doc="the models: {model: PATH or NODE, and parameters of its own}; or write slices or modules"
    )
    slices: tuple[object, ...] | None = param(
        None, doc="layers of the output in their order: {sources: [{model: ..., layer_range: [first, end]}]}"
    )
    modules: Mapping[str, object] | None = param(
        None, doc="models or slices for each stack of layers, where a network has several"
    )
    base: str | None = param(
        None, doc="the model that differences are taken from; by default what comes before"
    )
    parameters: Mapping[str, object] | None = param(None, doc="the method's parameters, as mergekit has them")
    dtype: str | None = param(
        None,
        choices=tuple(STORED),
        doc="of the weights written; by default as the base, or the first model, has them",
    )
    out_dtype: str | None = param(
        None, choices=tuple(STORED), doc="mergekit's other name for dtype; it goes first"
    )
    tokenizer_source: str | None = param(
        None, doc="whose tokens the output has: union, base or a model; by default all must have the same"
    )
    tokenizer: Mapping[str, object] | None = param(
        None, doc="the same with rules: {source, tokens: {TOKEN: {source, force}}, pad_to_multiple_of}"
    )
    chat_template: str | None = param(
        None, doc="auto, a name or a template; by default that of the base, or of the first model"
    )


def merge_stage(method: Method, module: str) -> Stage[Any]:
    """The stage `merge.NAME` of a method. module: where that is defined, so that the key holds its source."""
    of_text = {field.name for field in dataclasses.fields(CalibratedParams)} if method.statistics else set()

    def expand(values: Mapping[str, object], directory: Path, before: str) -> Expansion:
        text = {name: value for name, value in values.items() if name in of_text}
        values = {name: value for name, value in values.items() if name not in of_text}
        found = expand_short(values, method, directory, before)
        # A parameter has one place, since defaults are filled in there.
        nested = values.get("parameters")
        flat = {**(nested if isinstance(nested, Mapping) else {}), "parameters": None}
        return Expansion({**text, **found.values, **flat}, found.sources)

    def recipe_of(params: Any) -> Recipe:
        values = {
            field.metadata.get("written") or field.name: getattr(params, field.name)
            for field in dataclasses.fields(params)
            if field.name not in of_text
        }
        written = {
            name: value for name, value in values.items() if value is not None and name not in NOT_MERGED
        }
        return read_short(written, method, Given(), None)

    def preflight(params: Any, directories: Mapping[str, Path]) -> None:
        _check(params, recipe_of(params), method, directories)

    def run(context: Context[Any]) -> Result:
        return _run(context, recipe_of(context.params), method)

    run.__module__ = module
    return stage(
        f"merge.{method.name}",
        params=_params(method),
        inputs={},
        output="checkpoint",
        version=1,
        # Processors without a fused multiplication, or with other vectors, round sums in another way.
        determinism="seeded",
        tools=TOOLS if method.statistics is None else (*TOOLS, "tokenizers"),
        summary=method.summary,
        any_architecture=method.statistics is None,
        many=INPUTS,
        expand=expand,
        preflight=preflight,
    )(run)


def expand_short(values: Mapping[str, object], method: Method, directory: Path, before: str) -> Expansion:
    """The values of a short form with inputs in place of models.

    before: the node before, which is the base where the method needs one and none is named. Raises
    RecipeError as :func:`ingot.stages.merge.config.read_short` does.
    """
    inputs = Inputs(directory)
    merged = {name: value for name, value in values.items() if name not in NOT_MERGED}
    recipe = read_short(merged, method, inputs, before)
    changed = renamed(merged, inputs)
    if recipe.base is not None:
        changed["base"] = recipe.base
    return Expansion({**values, **changed, "titles": inputs.written()}, inputs.sources)


def _expand_file(values: Mapping[str, object], directory: Path, _before: str) -> Expansion:
    config = values.get("config")
    if not isinstance(config, str) or not config:
        fix = "write merge: {config: FILE}, a recipe of mergekit's; or merge: {method: NAME, models: [...]}"
        raise RecipeError("config is missing", fix=fix)
    path = directory / Path(config).expanduser()
    elsewhere = path.parent.resolve() != directory.resolve()
    inputs = Inputs(path.parent, elsewhere=elsewhere)
    file = values.get("method_file")
    own = None
    if file is not None:
        values = {**values, "method_file": str((directory / Path(str(file)).expanduser()).absolute())}
        own = load_method_file(Path(str(values["method_file"])))
    recipe = read_file(path, inputs, config, own)
    refuse_statistics(own or get(recipe.method), "a file of mergekit's")
    sources = {
        name: dataclasses.replace(each, origin=f"config.{each.origin}")
        for name, each in inputs.sources.items()
    }
    return Expansion({**values, "recipe": recipe.to_json(), "titles": inputs.written()}, sources)


def _check_file(params: MergeParams, directories: Mapping[str, Path]) -> None:
    _check(params, *_read(params), directories)


@stage(
    "merge",
    params=MergeParams,
    inputs={},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=TOOLS,
    summary="Merge models as a recipe of mergekit's says, unchanged",
    any_architecture=True,
    many=INPUTS,
    expand=_expand_file,
    preflight=_check_file,
)
def run(context: Context[MergeParams]) -> Result:
    """Merges the models that the recipe names; errors as in :func:`ingot.stages.merge.config.read`."""
    return _run(context, *_read(context.params))


def _read(params: MergeParams) -> tuple[Recipe, Method]:
    if params.recipe is None:
        raise RecipeError("config is missing", fix="write merge: {config: FILE}, a recipe of mergekit's")
    recipe, file = Recipe.from_json(params.recipe), params.method_file
    return recipe, load_method_file(Path(file)) if file is not None else _builtin(recipe.method)


def _builtin(name: str) -> Method:
    # Named one by one, so that the key of this stage holds the source of each.
    from .methods import (  # noqa: F401
        arcee_fusion,
        breadcrumbs,
        breadcrumbs_ties,
        dare_linear,
        dare_ties,
        della,
        della_linear,
        fisher,
        karcher,
        linear,
        model_stock,
        multislerp,
        nearswap,
        nuslerp,
        passthrough,
        ram,
        ramplus_tl,
        regmean,
        sce,
        slerp,
        task_arithmetic,
        ties,
    )

    return get(name)


def _run(context: Context[Any], recipe: Recipe, method: Method) -> Result:
    from .build import build_merge

    return build_merge(context, recipe, method, context.params.titles or {})


def _check(params: WrittenParams, recipe: Recipe, method: Method, directories: Mapping[str, Path]) -> None:
    from .build import check_merge

    check_merge(recipe, method, directories, params.titles or {})


def _params(method: Method) -> type[Any]:
    """The parameter class of a method's stage: what every merge has, and what the method declares."""
    own = [_field(each) for each in method.parameters]
    namespace = {"__doc__": f"Parameters of `merge.{method.name}`.", "__module__": __name__}
    name = f"{method.name.title().replace('_', '')}Params"
    bases = (ShortParams, CalibratedParams) if method.statistics else (ShortParams,)
    return dataclasses.make_dataclass(name, own, bases=bases, namespace=namespace, frozen=True)


def _field(each: Parameter) -> tuple[str, Any, Any]:
    # `lambda` is a word of Python's.
    name = f"{each.name}_" if each.name == "lambda" else each.name
    hint = {bool: Switch, int: Count}.get(each.kind, Spread)
    whose = "" if each.scope == "shared" else "; of one model where it is written beside it"
    default = None if each.default is REQUIRED else each.default
    field = param(
        default, doc=f"{each.doc}{whose}", minimum=each.minimum, maximum=each.maximum,
        written=each.name if name != each.name else None,
    )  # fmt: skip
    return name, hint, field
