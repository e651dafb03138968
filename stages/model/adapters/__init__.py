"""Adapters as PEFT saves them: a config and low-rank pairs by module, read with care and written again."""

from .adapter import CONFIG_FILE, PREFIX, WEIGHTS_FILE, Adapter, LowRank
from .config import AdapterConfig, config_json, read_config

__all__ = [
    "CONFIG_FILE", "PREFIX", "WEIGHTS_FILE", "Adapter", "AdapterConfig", "LowRank", "config_json",
    "read_config",
]  # fmt: skip
