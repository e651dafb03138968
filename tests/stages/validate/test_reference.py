"""`validate.reference` against transformers called plainly, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.digest import digest_file
from ingot.artifacts.errors import DataError, StageError
from ingot.stages.model import logits_store
from ingot.stages.model.text import read_documents

from .conftest import WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

    RunStage = Callable[..., Artifact]
    Reference = Callable[[str], Artifact]
    TinyCheckpoint = Callable[..., Path]


def plain_model(directory: Path, kind: str) -> Any:
    import torch
    import transformers

    return getattr(transformers, kind).from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_losses_and_likeliest_tokens_are_those_of_transformers(
    reference: Reference, tiny_checkpoint: TinyCheckpoint, evaluation: Path, family: str
) -> None:
    import torch
    from transformers import AutoTokenizer

    directory = tiny_checkpoint(family)
    model, tokenizer = (
        plain_model(directory, "AutoModelForCausalLM"),
        AutoTokenizer.from_pretrained(directory),
    )
    losses, likeliest, tails, document = [], [], [], []
    for number, text in enumerate(read_documents(evaluation)):
        ids = tokenizer(text)["input_ids"]
        for window in (ids[at : at + WINDOW] for at in range(0, len(ids), WINDOW)):
            if len(window) < 2:
                continue
            with torch.no_grad():
                logits = model(torch.tensor([window])).logits[0, :-1].double()
            log_p = logits.log_softmax(-1)
            losses += (-log_p[torch.arange(len(window) - 1), window[1:]]).tolist()
            likeliest += log_p.topk(20).values.tolist()
            tails += (1 - log_p.topk(20).values.exp().sum(-1)).tolist()
            document.append(number)
    found = logits_store.read(reference(family).path)
    assert found.windows.document.tolist() == document
    np.testing.assert_allclose(found.nll, losses, atol=2e-5)
    np.testing.assert_allclose(found.top.log_probabilities, likeliest, atol=2e-5)
    np.testing.assert_allclose(found.top.tail, tails, atol=2e-6)


def test_an_encoders_hidden_states_are_those_of_transformers(
    reference: Reference, tiny_checkpoint: TinyCheckpoint
) -> None:
    import torch

    found = logits_store.read(reference("bert").path)
    model = plain_model(tiny_checkpoint("bert"), "BertModel")
    for start, length in zip(found.windows.starts, found.windows.lengths, strict=True):
        window = torch.tensor(np.array(found.windows.ids[start : start + length]))[None]
        with torch.no_grad():
            states = model(window).last_hidden_state[0].numpy()
        np.testing.assert_allclose(found.hidden[start : start + length], states, atol=1e-5)


def test_facts_name_the_text_by_its_digest_and_count_what_was_measured(
    reference: Reference, evaluation: Path
) -> None:
    facts = reference("llama").facts
    assert facts["evaluation"] == digest_file(evaluation)
    assert (facts["window"], facts["top_k"], facts["documents"]) == (WINDOW, 20, 5)
    assert str(evaluation) not in json.dumps(facts)


def test_the_number_of_threads_does_not_change_a_bit(
    run_stage: RunStage, reference: Reference, tiny_checkpoint: TinyCheckpoint, evaluation: Path
) -> None:
    inputs = {"model": tiny_checkpoint("llama")}
    again = run_stage(
        "validate.reference", inputs, threads=3, evaluation=str(evaluation), window=WINDOW, top_k=20
    )
    assert again.digest == reference("llama").digest


def test_a_window_is_never_longer_than_the_models_context(
    run_stage: RunStage, tiny_checkpoint: TinyCheckpoint, evaluation: Path
) -> None:
    made = run_stage("validate.reference", {"model": tiny_checkpoint("gpt2")}, evaluation=str(evaluation))
    assert made.facts["window"] == 128
    assert logits_store.read(made.path).windows.lengths.max() == 128


def test_max_tokens_takes_the_first_whole_windows(
    run_stage: RunStage, tiny_checkpoint: TinyCheckpoint, evaluation: Path
) -> None:
    made = run_stage(
        "validate.reference",
        {"model": tiny_checkpoint("llama")},
        evaluation=str(evaluation),
        window=10,
        max_tokens=35,
    )
    assert logits_store.read(made.path).windows.lengths.tolist() == [10, 10, 10]


def test_a_text_shorter_than_one_window_is_refused_with_both_numbers(
    run_stage: RunStage, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("The river ran.")
    with pytest.raises(DataError, match=r"\d+ tokens, fewer than one window of 128") as raised:
        run_stage("validate.reference", {"model": tiny_checkpoint("llama")}, evaluation=str(path))
    assert raised.value.where == str(path)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("content", ["", "  \n\n"])
def test_an_empty_text_is_refused(
    run_stage: RunStage, tiny_checkpoint: TinyCheckpoint, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="no text"):
        run_stage("validate.reference", {"model": tiny_checkpoint("llama")}, evaluation=str(path))


def test_a_missing_text_is_refused(
    run_stage: RunStage, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        run_stage(
            "validate.reference", {"model": tiny_checkpoint("llama")}, evaluation=str(tmp_path / "none")
        )


def test_a_task_that_is_not_measured_is_named(
    run_stage: RunStage,
    tiny_checkpoint: TinyCheckpoint,
    evaluation: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ingot.stages.model.checkpoint import Checkpoint

    other = replace(Checkpoint.open(tiny_checkpoint("llama")).outline, task="image-classification")
    model = run_stage("load", {}, model=str(tiny_checkpoint("llama")))
    monkeypatch.setattr(Checkpoint, "outline", other)
    with pytest.raises(StageError, match="image-classification cannot be measured"):
        run_stage("validate.reference", {"model": model}, evaluation=str(evaluation))


def test_a_model_whose_output_is_not_finite_is_no_reference(
    run_stage: RunStage, tiny_checkpoint: TinyCheckpoint, evaluation: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    directory = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint("llama"), directory)
    tensors = load_file(directory / "model.safetensors")
    # Finite weights, as load demands, whose products are not.
    tensors["lm_head.weight"] = np.full_like(tensors["lm_head.weight"], 3e38)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match="not finite"):
        run_stage("validate.reference", {"model": directory}, evaluation=str(evaluation), window=WINDOW)
