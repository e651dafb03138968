"""RoBERTa (arXiv:1907.11692) and XLM-RoBERTa: BERT with positions that padding tokens do not take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .bert import network

if TYPE_CHECKING:
    from .architecture import Architecture
    from .config import ConfigReader

ACCEPTED = ("RobertaModel", "RobertaForMaskedLM")
ACCEPTED_XLM = ("XLMRobertaModel", "XLMRobertaForMaskedLM")
IGNORED = ("*pooler.dense.*", "*embeddings.position_ids", "lm_head.*")


def roberta(reader: ConfigReader, accepted: tuple[str, ...] = ACCEPTED) -> Architecture:
    """The architecture that a RoBERTa config describes.

    Its position embedding has a row for each id up to that of padding, and positions start behind them.
    """
    padding = reader.token("pad_token_id", 1)
    rows = reader.integer("max_position_embeddings", 512)
    if rows <= padding + 1:
        raise reader.error("max_position_embeddings", f"leaves no position behind pad_token_id, {padding}")
    return replace(
        network(reader, accepted, "roberta.", IGNORED),
        context=rows - padding - 1,
        position_offset=padding + 1,
        position_padding=padding,
    )


def xlm_roberta(reader: ConfigReader) -> Architecture:
    """XLM-RoBERTa: RoBERTa with another vocabulary."""
    return roberta(reader, ACCEPTED_XLM)
