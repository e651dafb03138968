"""Graphs traced from transformers compute what transformers computes, or are refused with the reason."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from ingot.artifacts.errors import IntakeError, RequirementError, StageError
from ingot.stages import base
from ingot.targets.runtimes import onnx as runtime
from ingot.targets.runtimes.base import Sampling
from safetensors.numpy import load_file, save_file

from ...conftest import OUTSIDE, OUTSIDE_ENCODERS, OUTSIDE_PAIRS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

    Run = Callable[..., Artifact]
    Tiny = Callable[..., Path]

STAGE = "export.transformers"
REFUSED = "mamba"
CAUSAL = [name for name in OUTSIDE if name not in (*OUTSIDE_ENCODERS, *OUTSIDE_PAIRS, REFUSED)]
WITHOUT_CACHE = "openai-gpt"
# Neither lengths nor batches are those of the samples that graphs are traced on.
ROWS = [[7, 200, 31, 5, 9, 44, 120, 33, 8, 301, 77], [300, 9, 18, 5, 260], [44]]
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}


def loaded(directory: Path, auto: str) -> Any:
    import torch
    import transformers

    return getattr(transformers, auto).from_pretrained(directory, dtype=torch.float32).eval()


def padded(rows: list[list[int]], side: str) -> tuple[Any, Any]:
    longest = max(map(len, rows))
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


@pytest.mark.parametrize("family", CAUSAL)
def test_a_decoder_in_a_left_padded_batch_and_step_by_step(
    family: str, run_stage: Run, tiny_checkpoint: Tiny
) -> None:
    import torch

    directory = tiny_checkpoint(family)
    model = loaded(directory, "AutoModelForCausalLM")
    with torch.no_grad():
        alone = [model(torch.tensor([row])).logits[0].numpy() for row in ROWS]
    session = runtime.open(run_stage(STAGE, {"model": directory}).path, threads=1)
    try:
        ids, mask = padded(ROWS, "left")
        whole = session.logits(ids, mask)
        for row, kept, expected in zip(whole, mask, alone, strict=True):
            np.testing.assert_allclose(row[kept == 1], expected, **TOLERANCE)
        assert np.ptp(alone[0], axis=1).min() > 0.05  # predictions that mean something
        first, rest = 8, ids.shape[1]
        logits, past = session.step(ids[:, :first], mask[:, :first])
        parts = [logits]
        for place in range(first, rest):
            logits, past = session.step(ids[:, place : place + 1], mask[:, : place + 1], past)
            parts.append(logits)
        stepped = np.concatenate(parts, axis=1)
        np.testing.assert_allclose(stepped[mask == 1], whole[mask == 1], **TOLERANCE)
        last, _ = session.step(ids, mask, logits_from=-1)
        np.testing.assert_allclose(last, whole[:, -1:], **TOLERANCE)
        with torch.no_grad():
            generated = model.generate(
                torch.tensor([ROWS[0]]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=2
            )
        expected_ids = generated[0, len(ROWS[0]) :].tolist()
        found = session.generate([ROWS[0]], Sampling(max_new_tokens=12))[0]
        ends = session.info.eos_ids
        stop = next((place for place, token in enumerate(expected_ids) if token in ends), None)
        assert found == expected_ids[:stop]
    finally:
        session.close()


@pytest.mark.parametrize("family", OUTSIDE_ENCODERS)
def test_an_encoder_in_a_right_padded_batch(family: str, run_stage: Run, tiny_checkpoint: Tiny) -> None:
    import torch

    directory = tiny_checkpoint(family)
    model = loaded(directory, "AutoModel")
    session = runtime.open(run_stage(STAGE, {"model": directory}).path, threads=1)
    try:
        ids, mask = padded(ROWS, "right")
        states = session.logits(ids, mask)
        for row, kept, tokens in zip(states, mask, ROWS, strict=True):
            with torch.no_grad():
                expected = model(torch.tensor([tokens])).last_hidden_state[0].numpy()
            np.testing.assert_allclose(row[kept == 1], expected, **TOLERANCE)
    finally:
        session.close()


@pytest.mark.parametrize("family", OUTSIDE_PAIRS)
def test_an_encoder_decoder_with_sources_of_several_lengths(
    family: str, run_stage: Run, tiny_checkpoint: Tiny
) -> None:
    import torch

    directory = tiny_checkpoint(family)
    model = loaded(directory, "AutoModelForSeq2SeqLM")
    artifact = run_stage(STAGE, {"model": directory})
    session = runtime.open(artifact.path, threads=1)
    try:
        targets = np.array([[1, 20, 30, 40, 50], [1, 9, 8, 7, 6], [1, 300, 2, 3, 4]])
        source = session.encode(*padded(ROWS, "right"))
        whole = session.logits(source, targets)
        for row, tokens, target in zip(whole, ROWS, targets, strict=True):
            with torch.no_grad():
                out = model(input_ids=torch.tensor([tokens]), decoder_input_ids=torch.tensor(target[None]))
            np.testing.assert_allclose(row, out.logits[0].numpy(), **TOLERANCE)
        logits, past = session.step(source, targets[:, :2])
        parts = [logits]
        for place in range(2, targets.shape[1]):
            logits, past = session.step(source, targets[:, place : place + 1], past)
            parts.append(logits)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, **TOLERANCE)
        last, _ = session.step(source, targets, logits_from=-1)
        np.testing.assert_allclose(last, whole[:, -1:], **TOLERANCE)
    finally:
        session.close()
    # What both graphs read lies in one file beside them.
    assert (artifact.path / "model.onnx.data").is_file()
    names = [names_of(artifact.path / name) for name in ("encoder.onnx", "model.onnx")]
    assert any("embed" in name or "shared" in name for name in names[0] & names[1])


def names_of(path: Path) -> set[str]:
    return {each.name for each in onnx.load(str(path), load_external_data=False).graph.initializer}


@pytest.mark.parametrize("family", ["bloom", "cohere", "gptj"])
def test_weights_are_stored_once_under_their_own_names(
    family: str, run_stage: Run, tiny_checkpoint: Tiny
) -> None:
    directory = tiny_checkpoint(family)
    stored = load_file(directory / "model.safetensors")
    artifact = run_stage(STAGE, {"model": directory})
    found = {
        each.name: list(each.dims) for each in onnx.load(str(artifact.path / "model.onnx")).graph.initializer
    }
    assert {name: list(tensor.shape) for name, tensor in stored.items()}.items() <= found.items()
    extra = sum(math.prod(shape) for name, shape in found.items() if name not in stored)
    assert extra < 200  # rotary frequencies and the like: a head that is the embedding has no second copy
    parameters = sum(tensor.size for tensor in stored.values())
    assert artifact.facts["parameters"] == parameters
    assert artifact.facts["weights_by_width"] == {
        "float32": {"tensors": len(stored), "parameters": parameters}
    }


def test_two_exports_are_the_same_to_the_bit(run_stage: Run, tiny_checkpoint: Tiny) -> None:
    first, second = (run_stage(STAGE, {"model": tiny_checkpoint("gptj")}) for _ in range(2))
    assert first.digest == second.digest


def test_a_model_without_keys_and_values_is_exported_without_a_cache_and_the_run_says_so(
    run_stage: Run, tiny_checkpoint: Tiny
) -> None:
    notes: list[str] = []
    artifact = run_stage(STAGE, {"model": tiny_checkpoint(WITHOUT_CACHE)}, notes=notes)
    assert artifact.facts["has_cache"] is False
    about = json.loads((artifact.path / "ingot.json").read_text())
    assert about["past"] is None
    assert not any(name.startswith("past") for name in about["inputs"])
    assert len(notes) == 1
    assert "no cache" in notes[0]
    assert "every step of decoding computes the whole sequence anew" in notes[0]
    notes.clear()
    assert run_stage(STAGE, {"model": tiny_checkpoint("gptj")}, notes=notes).facts["has_cache"] is True
    assert notes == []


def test_a_cache_that_is_traced_wrong_is_found_and_left_out(
    run_stage: Run, tiny_checkpoint: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.stages.export.onnx.traced import modules

    right = modules._parts
    # What is handed on is half of what it should be: whole sequences do not show it.
    monkeypatch.setattr(modules, "_parts", lambda cache: tuple(part * 0.5 for part in right(cache)))
    notes: list[str] = []
    artifact = run_stage(STAGE, {"model": tiny_checkpoint("gptj")}, notes=notes)
    assert artifact.facts["has_cache"] is False
    assert "its graph differs from the model in decode (by " in notes[0]
    assert sorted(path.name for path in artifact.path.iterdir() if path.suffix == ".onnx") == ["model.onnx"]


def test_a_mixtures_memory_is_told(run_stage: Run, tiny_checkpoint: Tiny) -> None:
    notes: list[str] = []
    run_stage(STAGE, {"model": tiny_checkpoint("olmoe")}, notes=notes)
    # Two of four experts, each of three maps of 64 by 160 in float32.
    assert [f"{2 * 3 * 64 * 160 * 4 / 1e6:.3g} MB" in note for note in notes] == [True]


def test_what_cannot_be_traced_is_refused_with_the_remedy(run_stage: Run, tiny_checkpoint: Tiny) -> None:
    with pytest.raises(StageError, match="mamba cannot be exported as transformers computes it") as caught:
        run_stage(STAGE, {"model": tiny_checkpoint(REFUSED)})
    assert "ingot.families" in str(caught.value.fix)


@pytest.fixture
def own(tiny_checkpoint: Tiny, tmp_path: Path) -> Callable[[str], Path]:
    def make(family: str) -> Path:
        return shutil.copytree(tiny_checkpoint(family), tmp_path / family)

    return make


def test_weights_that_are_missing_are_refused_not_made_up(run_stage: Run, own: Callable[[str], Path]) -> None:
    directory = own("gptj")
    tensors = load_file(directory / "model.safetensors")
    del tensors["transformer.h.1.mlp.fc_in.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntakeError, match=r"missing: transformer\.h\.1\.mlp\.fc_in\.weight"):
        run_stage(STAGE, {"model": directory})


def test_weights_of_another_shape_are_refused(run_stage: Run, own: Callable[[str], Path]) -> None:
    directory = own("electra")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(IntakeError, match="wrong shape: "):
        run_stage(STAGE, {"model": directory})


def test_a_trained_head_beside_an_encoder_stays_behind(run_stage: Run, own: Callable[[str], Path]) -> None:
    directory = own("albert")
    tensors = load_file(directory / "model.safetensors")
    kept = {f"albert.{name}": value for name, value in tensors.items() if not name.startswith("pooler")}
    head = {"predictions.dense.weight": np.ones((32, 64), np.float32)}
    save_file(kept | head, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["AlbertForMaskedLM"]}))
    artifact = run_stage(STAGE, {"model": directory})
    assert not any("predictions" in name for name in names_of(artifact.path / "model.onnx"))


def test_a_runtime_that_is_too_old_is_known_before_anything_runs() -> None:
    stage = base.get(STAGE)
    assert stage.requires is not None
    assert all(each.met for each in stage.requires(stage.params()))
    unmet = [each for each in stage.requires(stage.params(opset_range=(7, 19))) if not each.met]
    assert [each.name for each in unmet] == ["ONNX opset 20 within the target's 7 to 19"]


def test_large_weights_go_beside_the_graph(run_stage: Run, tiny_checkpoint: Tiny) -> None:
    artifact = run_stage(STAGE, {"model": tiny_checkpoint("falcon")}, external_data_above_bytes=0)
    assert (artifact.path / "model.onnx.data").is_file()
    session = runtime.open(artifact.path, threads=1)
    assert session.logits(np.array([[5, 6]])).shape == (1, 2, 320)
    session.close()


def test_an_older_opset_range_is_an_error_when_the_stage_runs_all_the_same(
    run_stage: Run, tiny_checkpoint: Tiny
) -> None:
    with pytest.raises(RequirementError, match="opset 20"):
        run_stage(STAGE, {"model": tiny_checkpoint("gptj")}, opset_range=[7, 19])
