"""The table of architecture families: what Ingot knows how to quantize, export and run.

A family is a function from a :class:`ConfigReader` to an :class:`Architecture`, found by its `model_type`: a
line in ``FAMILIES``, or an entry point of the group `ingot.families` of an installed distribution::

    [project.entry-points."ingot.families"]
    my_model = "my_package.families:my_model"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....artifacts.entry_points import entry_points
from ....artifacts.errors import IntakeError, RequirementError, nearest
from .architecture import (
    Activation,
    Architecture,
    Attention,
    FeedForward,
    Layer,
    Linear,
    Mixture,
    Norm,
    RelativeBias,
    Rope,
    Task,
)
from .bart import bart
from .bert import bert
from .compact import compacted
from .config import ConfigReader
from .distilbert import distilbert
from .gemma import gemma, gemma2, gemma3
from .gpt2 import gpt2
from .gpt_neox import gpt_neox
from .llama import llama, mistral, qwen2, qwen3
from .mixture import mixtral, qwen2_moe, qwen3_moe
from .opt import opt
from .outline import Outline
from .outside import outline_of
from .phi import phi, phi3
from .roberta import roberta, xlm_roberta
from .t5 import mt5, t5

if TYPE_CHECKING:
    import importlib.metadata
    from collections.abc import Callable, Collection, Mapping

__all__ = [
    "FAMILIES", "Activation", "Architecture", "Attention", "ConfigReader", "FeedForward", "Layer", "Linear",
    "Mixture", "Norm", "Outline", "RelativeBias", "Rope", "Task", "architecture", "names", "outline",
    "plugin_versions",
]  # fmt: skip

GROUP = "ingot.families"

FAMILIES: Mapping[str, Callable[[ConfigReader], Architecture]] = {
    "bart": bart,
    "bert": bert,
    "distilbert": distilbert,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "mt5": mt5,
    "opt": opt,
    "phi": phi,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "roberta": roberta,
    "t5": t5,
    "xlm-roberta": xlm_roberta,
}


def architecture(
    config: Mapping[str, object], where: str, tensor_names: Collection[str] = ()
) -> Architecture:
    """The architecture that a config.json describes.

    where: the config's place, for messages.  tensor_names: those of the checkpoint, where known, since the
    same family is published with and without a prefix.  Raises IntakeError for a `model_type` that is not in
    the table and for values that the family's graph does not compute, RequirementError for an installed
    family that cannot be used.
    """
    return compacted(_whole(config, where, tensor_names), config, where)


def _whole(config: Mapping[str, object], where: str, tensor_names: Collection[str]) -> Architecture:
    """The architecture as its family reads it."""
    model_type, reader = config.get("model_type"), ConfigReader(config, where, tensor_names)
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type](reader)
    if not isinstance(model_type, str) or model_type not in entry_points(GROUP).names:
        guess = nearest(str(model_type), names())
        hint = f"did you mean {guess}? " if guess else ""
        raise IntakeError(
            f"model_type {model_type!r} is not a known architecture",
            where=where,
            fix=f"{hint}known ones are {', '.join(names())}",
        )
    return _installed(entry_points(GROUP)[model_type], reader)


def outline(
    config: Mapping[str, object],
    where: str,
    tensor_names: Collection[str] = (),
    most_tokens: int | None = None,
) -> Outline:
    """What a config.json describes, from outside; also of a network that the table does not hold.

    most_tokens: the longest sequence that the tokenizer's settings give.  Raises what :func:`architecture`
    and :func:`ingot.stages.model.families.outside.outline_of` raise.
    """
    if config.get("model_type") in names():
        return Outline.of(architecture(config, where, tensor_names))
    return outline_of(ConfigReader(config, where, tensor_names), names(), most_tokens)


def names() -> tuple[str, ...]:
    """Every `model_type` that is known, built in or installed."""
    return tuple(sorted({*FAMILIES, *entry_points(GROUP).names}))


def plugin_versions() -> dict[str, str]:
    """The versions of the distributions that add families: what they describe enters whatever is built."""
    return {point.dist.name: point.dist.version for point in entry_points(GROUP) if point.dist is not None}


def _installed(point: importlib.metadata.EntryPoint, reader: ConfigReader) -> Architecture:
    """What an installed family makes of a config; its own errors of what a config says pass."""
    fix = "update or remove the distribution that registers it"
    try:
        family = point.load()
    except Exception as error:
        raise RequirementError(
            f"the family {point.name} ({point.value}) does not load: {error}", fix=fix
        ) from error
    found = family(reader)
    if not isinstance(found, Architecture):
        raise RequirementError(f"the family {point.name} ({point.value}) gives no Architecture", fix=fix)
    return found
