"""The table of architecture families: what Ingot knows how to quantize, export and run.

A family is a function from a config to an :class:`Architecture` and a line in ``FAMILIES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....artifacts.errors import IntakeError, nearest
from .architecture import Activation, Architecture, Attention, FeedForward, Layer, Linear, Norm, Rope, Task
from .bart import bart
from .bert import bert
from .config import ConfigReader
from .distilbert import distilbert
from .gpt2 import gpt2
from .llama import llama, mistral, qwen2, qwen3
from .roberta import roberta, xlm_roberta
from .t5 import mt5, t5

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = [
    "FAMILIES", "Activation", "Architecture", "Attention", "FeedForward", "Layer", "Linear", "Norm", "Rope",
    "Task", "architecture",
]  # fmt: skip

FAMILIES: Mapping[str, Callable[[ConfigReader], Architecture]] = {
    "bart": bart,
    "bert": bert,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "llama": llama,
    "mistral": mistral,
    "mt5": mt5,
    "qwen2": qwen2,
    "qwen3": qwen3,
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
    the table and for values that the family's graph does not compute.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        guess = nearest(str(model_type), FAMILIES)
        hint = f"did you mean {guess}? " if guess else ""
        raise IntakeError(
            f"model_type {model_type!r} is not a known architecture",
            where=where,
            fix=f"{hint}known ones are {', '.join(sorted(FAMILIES))}",
        )
    return family(ConfigReader(config, where, tensor_names))
