"""`load.adapter`: what passes is copied byte for byte; what is doubtful is refused before."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from ingot.artifacts.errors import IntakeError
from ingot.stages.load.adapter import LoadAdapterParams, files_read

Q = "model.layers.0.self_attn.q_proj"
STAGE = "load.adapter"


def pair(rank: int = 4, value: float = 0.5) -> dict[str, torch.Tensor]:
    return {f"{Q}.lora_A.weight": torch.full((rank, 6), value), f"{Q}.lora_B.weight": torch.ones(10, rank)}


def test_it_is_copied_byte_for_byte_and_described(make_adapter, run_stage):
    directory = make_adapter(pair(), lora_alpha=2)
    (directory / "LICENSE").write_text("free")
    (directory / "optimizer.pt").write_bytes(b"not wanted")
    made = run_stage(STAGE, {}, adapter=str(directory))
    assert made.kind == "adapter"
    names = {"adapter_config.json", "adapter_model.safetensors", "LICENSE"}
    assert {path.name for path in made.path.iterdir()} == names
    for name in names:
        assert (made.path / name).read_bytes() == (directory / name).read_bytes()
    assert made.facts["kind"] == "lora"
    assert (made.facts["ranks"], made.facts["modules"]) == ([4], 1)
    assert (made.facts["parameters"], made.facts["dtype"]) == (64, "float32")
    assert files_read(LoadAdapterParams(adapter=str(directory))).keys() == names


def test_values_that_are_not_finite_are_refused_with_their_tensor(make_adapter, run_stage):
    directory = make_adapter(pair(value=float("nan")))
    with pytest.raises(IntakeError, match=r"q_proj\.lora_A\.weight holds 24 NaN") as caught:
        run_stage(STAGE, {}, adapter=str(directory))
    assert caught.value.where == str(directory / "adapter_model.safetensors")


def test_a_config_that_cannot_be_honoured_is_refused_by_its_key(make_adapter, run_stage):
    with pytest.raises(IntakeError, match=r"^peft_type: 'IA3' is not LORA"):
        run_stage(STAGE, {}, adapter=str(make_adapter(pair(), peft_type="IA3")))


def test_missing_files_are_named(make_adapter, run_stage, tiny_checkpoint, tmp_path):
    with pytest.raises(IntakeError, match=r"it is no adapter: it has no adapter_config\.json"):
        run_stage(STAGE, {}, adapter=str(tiny_checkpoint("llama")))
    directory = make_adapter(pair())
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(IntakeError, match=r"it has no adapter_model\.safetensors"):
        run_stage(STAGE, {}, adapter=str(directory))
    with pytest.raises(IntakeError, match="does not exist"):
        run_stage(STAGE, {}, adapter=str(tmp_path / "adaptor"))


def test_a_model_that_is_an_adapter_is_told_what_folds_it(make_adapter, run_stage, tiny_checkpoint):
    directory = make_adapter(pair())
    (directory / "config.json").write_text((tiny_checkpoint("llama") / "config.json").read_text())
    with pytest.raises(IntakeError, match="an adapter, not a model") as caught:
        run_stage("load", {}, model=str(directory))
    assert "fuse.lora" in (caught.value.fix or "")


def test_a_symlink_out_of_the_directory_is_refused(make_adapter, run_stage, tmp_path):
    directory = make_adapter(pair())
    (directory / "adapter_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (directory / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(IntakeError, match="symlink out of the checkpoint"):
        run_stage(STAGE, {}, adapter=str(directory))


def test_a_pickle_is_read_only_on_a_persons_word_and_gives_the_same_adapter(make_adapter, run_stage):
    safe, directory = make_adapter(pair()), make_adapter(pair(), "pickled")
    (directory / "adapter_model.safetensors").unlink()
    state = {f"base_model.model.{name}": value for name, value in pair().items()}
    torch.save(state, directory / "adapter_model.bin")
    with pytest.raises(IntakeError, match=r"pickled \(adapter_model\.bin\)") as caught:
        run_stage(STAGE, {}, adapter=str(directory))
    assert "allow_pickle" in (caught.value.fix or "")
    notes: list[str] = []
    made = run_stage(STAGE, {}, notes=notes, adapter=str(directory), allow_pickle=True)
    assert any("converted to safetensors" in note for note in notes)
    assert {path.name for path in made.path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert made.facts == run_stage(STAGE, {}, adapter=str(safe)).facts


def test_a_pickle_that_does_more_than_hold_tensors_is_refused(make_adapter, run_stage):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    directory = make_adapter(pair())
    (directory / "adapter_model.safetensors").unlink()
    (directory / "adapter_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(IntakeError, match="not a usable file of pickled weights"):
        run_stage(STAGE, {}, adapter=str(directory), allow_pickle=True)


def test_where_it_was_found_and_trained_changes_no_digest(make_adapter, run_stage):
    first = run_stage(STAGE, {}, adapter=str(make_adapter(pair())))
    second = run_stage(STAGE, {}, adapter=str(make_adapter(pair(), "other")))
    assert first.digest == second.digest
    assert json.loads((first.path / "adapter_config.json").read_text())["r"] == 4
