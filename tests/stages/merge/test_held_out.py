"""Held-out texts of a merge: what is told of each model and of the output is what transformers computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.artifacts.errors import InputError, RecipeError
from ingot.stages.model.tokens import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WINDOWS = 3


def loss_of(directory: Path, text: str) -> float:
    """The mean loss of windows spread over a text, nats a token."""
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids, width = load_tokenizer(directory).encode(text).ids, min(256, network.config.max_position_embeddings)
    whole = [ids[at : at + width] for at in range(0, len(ids) - width + 1, width)]
    chosen = torch.tensor([whole[number * len(whole) // WINDOWS] for number in range(WINDOWS)])
    with torch.no_grad():
        return float(network(chosen, labels=chosen).loss)


@pytest.fixture
def texts(tmp_path: Path) -> Mapping[str, str]:
    """Two texts, by the path of each."""
    found = {"prose.txt": "the river ran past the old mill " * 60, "letters.txt": "a b c d " * 200}
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    return {str(tmp_path / name): text for name, text in found.items()}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_model_and_the_merge_are_measured_on_every_text(
    family: str, merged: Any, sibling: Any, texts: Mapping[str, str]
) -> None:
    a, b = sibling(family, "a"), sibling(family, "b")
    observed: dict[str, Any] = {}
    models = [{"model": str(a), "weight": 1}, {"model": str(b), "weight": 1}]
    given = {"models": models, "texts": list(texts), "text_windows": WINDOWS}
    made = merged("merge.linear", given, observed=observed)
    found = observed["texts"]
    assert found["texts"] == ["prose.txt", "letters.txt"]
    networks = {**found["sources"], "merged": found["merged"]}
    expected = {str(a): a, str(b): b, "merged": made.path}
    assert set(networks) == set(expected)
    for name, directory in expected.items():
        assert networks[name] == pytest.approx(
            [loss_of(directory, text) for text in texts.values()], rel=1e-5
        )


def test_a_merge_without_texts_measures_none(merged: Any, sibling: Any) -> None:
    observed: dict[str, Any] = {}
    merged(
        "merge.linear", {"models": [{"model": str(sibling("llama", "a")), "weight": 1}]}, observed=observed
    )
    assert "texts" not in observed


def test_texts_say_nothing_of_encoders_or_across_vocabularies(
    merged: Any, sibling: Any, texts: Mapping[str, str]
) -> None:
    bert = {"models": [{"model": str(sibling("bert", "a")), "weight": 1}], "texts": list(texts)}
    with pytest.raises(InputError, match="predicts no next token"):
        merged("merge.linear", bert)
    llama = {"models": [{"model": str(sibling("llama", "a")), "weight": 1}], "texts": list(texts)}
    with pytest.raises(RecipeError, match="other tokens"):
        merged("merge.linear", {**llama, "tokenizer_source": "union"})
