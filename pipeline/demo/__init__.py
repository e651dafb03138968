"""The bundled model and texts, and the recipe that `ingot demo` runs on them."""

from __future__ import annotations

from pathlib import Path

MODEL = Path(__file__).parent / "wikitext-llama-4m"
PROMPT = "The river was first described by"
