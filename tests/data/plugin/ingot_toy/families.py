"""A family of a third party: Llama that says what its hidden size is under a key of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.stages.model.families import ConfigReader
from ingot.stages.model.families.llama import llama

if TYPE_CHECKING:
    from ingot.stages.model.families import Architecture


def toy_llama(reader: ConfigReader) -> Architecture:
    """The architecture of a config whose `hidden_size` is called `toy_size`."""
    config = {**reader.config, "hidden_size": reader.integer("toy_size")}
    return llama(ConfigReader(config, reader.where, reader.tensor_names))
