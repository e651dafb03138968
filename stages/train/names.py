"""What parameters are called while a network trains, told from headers alone, and patterns tried on them."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError, RecipeError
from ..model.dtypes import NAMES
from ..model.families import FAMILIES
from ..model.named import matching
from ..model.whole import Whole

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model.checkpoint import Checkpoint
    from .params import TrainParams

# What transformers puts before the names of networks that predict tokens, where a checkpoint may lack it; its
# networks that encode have them without.
ROOTS = {
    "bart": "model.", "bert": "bert.", "distilbert": "distilbert.", "gpt2": "transformer.", "opt": "model.",
    "roberta": "roberta.", "xlm-roberta": "roberta.",
}  # fmt: skip
HEAD = "lm_head."
# Of GPT-NeoX, whose head has the usual name in the network of newer releases.
OLD_HEAD = "embed_out.weight"
# Buffers, which no checkpoint tells from parameters.
BUFFERS = ("final_logits_bias",)
# Experts that the network holds in one parameter, or in two, and their router.
_EXPERT = re.compile(r"(.+)\.(?:block_sparse_moe|mlp)\.experts\.\d+\.(\w+)\.weight")
_DOWN = ("w2", "down_proj")
_BLOCK = ".block_sparse_moe."


def parameter_names(source: Checkpoint) -> tuple[str, ...] | None:
    """The names of a checkpoint's parameters in the network that transformers makes of it.

    None where headers do not tell: of networks outside the table of families, and of packed weights.
    """
    found = _parts(source)
    return None if found is None else tuple(found)


def rounded_names(source: Checkpoint) -> tuple[str, ...] | None:
    """The same of a network some of whose weights are rounded: as they are, and what each is trained by."""
    parts = _parts(source)
    if parts is None:
        return None
    found = []
    for name, count in parts.items():
        owner, _, attribute = name.rpartition(".")
        held = f"{owner}.parametrizations.{attribute}"
        found += [name, f"{held}.original"]
        found += [f"{held}.0.grids.{grid}.{part}" for grid in range(count) for part in ("ratio", "shift")]
    return tuple(found)


def low_rank_names(source: Checkpoint) -> tuple[str, ...] | None:
    """What trains where weights are given low-rank changes."""
    names = parameter_names(source)
    if names is None:
        return None
    owners = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return tuple(f"{each}.parametrizations.weight.0.{part}" for each in owners for part in ("down", "up"))


def _parts(source: Checkpoint) -> dict[str, int] | None:
    """Each parameter's name, and of how many stored tensors it is made."""
    try:
        model, shapes = source.architecture, Whole.of(source).shapes()
    except IntakeError:
        return None  # loading says what is wrong with it
    if model.model_type not in FAMILIES or any(each.name not in source.tensors for each in model.linears):
        return None
    found: dict[str, int] = {}
    for shape in shapes:
        name = shape.name
        if shape.dtype in NAMES and not any(
            fnmatch.fnmatchcase(name, pattern) for pattern in (*BUFFERS, *model.ignored)
        ):
            for each in _renamed(name, ROOTS.get(model.model_type, ""), is_encoder=model.task == "encoder"):
                found[each] = found.get(each, 0) + 1
    return found


def _renamed(name: str, root: str, *, is_encoder: bool) -> tuple[str, ...]:
    """What a stored tensor may be called in the network."""
    if is_encoder:
        return (name.removeprefix(root),)
    if expert := _EXPERT.fullmatch(name):
        return (f"{expert[1]}.mlp.experts.{'down_proj' if expert[2] in _DOWN else 'gate_up_proj'}",)
    if name == OLD_HEAD:
        return name, f"{HEAD}weight"
    whole = name if name.startswith((root, HEAD)) else root + name
    return (whole.replace(_BLOCK, ".mlp."),)


def check_patterns(params: TrainParams, names: Collection[str]) -> None:
    """Raises RecipeError for a pattern of `freeze` or `groups` that none of some names has, and where the
    first leave nothing to train. names: of all that train, at least.
    """
    left = dict.fromkeys(names)
    for pattern in params.freeze:
        for name in matching(names, pattern, "freeze", "parameter"):
            left.pop(name, None)
    if not left:
        raise RecipeError("freeze: nothing is left to train", fix="freeze less, or leave the stage out")
    for pattern in params.groups or {}:
        matching(left, pattern, "groups", "parameter")
