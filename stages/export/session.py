"""`ingot.json` of a program of torch or ExecuTorch: what its session must know of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.checkpoint import settings

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.families import Architecture

SCHEMA = "ingot/session/v1"


def about_json(model: Architecture, form: str, length: int, directory: Path) -> dict[str, object]:
    """The content of `ingot.json` that every format has; a format adds its own.

    form: the artifact's format.  length: the longest sequence of the program, tokens.  directory: where
    config.json and generation_config.json lie, which name the special tokens.
    """
    merged = settings(directory)
    ends = merged.get("eos_token_id")
    return {
        "schema": SCHEMA,
        "format": form,
        "task": model.task,
        "model_type": model.model_type,
        "layers": len(model.layers),
        "hidden": model.hidden,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "vocabulary": model.vocabulary,
        "context": length,
        "bos_id": merged.get("bos_token_id"),
        "eos_ids": ends if isinstance(ends, list) else [] if ends is None else [ends],
        "pad_id": merged.get("pad_token_id"),
    }
