"""Layouts of other programs for quantized weights: how each is packed, described in config.json, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....artifacts.errors import IntakeError
from . import awq, bitsandbytes, compressed, gptq
from .awq import AwqLayout, AwqReader
from .base import Layout, Part, Reader, module_of
from .bitsandbytes import BitsandbytesLayout, BitsandbytesReader
from .compressed import CompressedLayout
from .compressed_reader import CompressedReader
from .gptq import GptqLayout, GptqReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "LAYOUTS", "READERS", "AwqLayout", "BitsandbytesLayout", "CompressedLayout", "GptqLayout", "Layout",
    "Part", "Reader", "module_of", "open_reader",
]  # fmt: skip

LAYOUTS = (compressed.METHOD, gptq.METHOD, awq.METHOD, bitsandbytes.METHOD)
READERS: Mapping[str, Callable[[Mapping[str, Any], str], Reader]] = {
    compressed.METHOD: CompressedReader.open,
    gptq.METHOD: GptqReader.open,
    awq.METHOD: AwqReader.open,
    bitsandbytes.METHOD: BitsandbytesReader.open,
}


def open_reader(config: Mapping[str, object], where: str) -> Reader:
    """What reads the weights that a config.json's `quantization_config` describes.

    Raises IntakeError for a method, or a variant of one, that is not read.
    """
    settings = config.get("quantization_config")
    method = str(settings.get("quant_method")) if isinstance(settings, dict) else "unknown"
    if not isinstance(settings, dict) or method not in READERS:
        raise IntakeError(
            f"quantization_config: the weights are quantized already ({method}), in a "
            "layout that is not read",
            where=where,
            fix=f"layouts that are: {', '.join(READERS)}; or start from the unquantized checkpoint",
        )
    return READERS[method](settings, where)
