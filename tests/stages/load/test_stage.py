"""The load stage: what it copies, what it says of it, and what it refuses once it sees the bytes."""

from __future__ import annotations

import json

import pytest
import torch
from ingot.artifacts.digest import digest_file
from ingot.artifacts.errors import IntakeError
from ingot.stages import base
from ingot.stages.load.intake import inspect_source
from ingot.stages.load.stage import LoadParams, files_read
from ingot.stages.model.checkpoint import Checkpoint


@pytest.fixture
def load(store, tmp_path):
    """Runs the stage on a directory and publishes what it made."""

    def run(directory, progress=lambda done, total, what: None):
        with store.outbox() as outbox:
            context = base.Context(
                LoadParams(model=str(directory)), {}, outbox, tmp_path, 0, 1, progress, pytest.fail
            )
            result = base.get("load").run(context)
            return outbox.publish("checkpoint", result.facts), result

    return run


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "qwen3", "gpt2", "bert"])
def test_every_family_is_copied_byte_for_byte_with_its_facts(tiny_checkpoint, load, family):
    directory = tiny_checkpoint(family)
    artifact, _ = load(directory)
    assert {record.path for record in artifact.record.files} == {path.name for path in directory.iterdir()}
    for record in artifact.record.files:
        assert record.sha256 == digest_file(directory / record.path)
    assert artifact.facts == inspect_source(directory).identity()
    assert "source" not in artifact.facts


def test_the_copy_is_a_checkpoint_and_copies_of_copies_are_the_same_artifact(tiny_checkpoint, load):
    first, result = load(tiny_checkpoint("qwen2", max_shard_size="150KB"))
    second, again = load(first.path)
    assert first.digest == second.digest
    assert result.observed != again.observed
    assert Checkpoint.open(second.path).architecture.model_type == "qwen2"


def test_only_known_files_are_copied_licences_among_them(own_checkpoint, load):
    model = own_checkpoint()
    for name in ("modeling_llama.py", "pytorch_model.bin", "training_args.json", "LICENSE", "merges.txt"):
        (model.path / name).write_text("x")
    (model.path / "onnx").mkdir()
    (model.path / "README.md").write_text("---\nlicense: mit\n---\n")
    artifact, result = load(model.path)
    names = {record.path for record in artifact.record.files}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "merges.txt"}
    assert not names & {"modeling_llama.py", "pytorch_model.bin", "training_args.json", "onnx", "README.md"}
    assert result.observed["source"] == {"uri": "model", "license": "mit"}


def test_what_enters_the_key_is_exactly_what_is_copied(own_checkpoint, load):
    model = own_checkpoint("llama", max_shard_size="200KB")
    (model.path / "notes.txt").write_text("x")
    files = files_read(LoadParams(model=str(model.path)))
    artifact, _ = load(model.path)
    assert set(files) == {record.path for record in artifact.record.files}
    assert all(path.parent == model.path for path in files.values())
    assert base.get("load").reads is files_read


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_refused_by_name_and_count(own_checkpoint, load, store, value, dtype):
    model = own_checkpoint("llama", dtype=dtype)

    def damage(found):
        found["model.layers.1.mlp.down_proj.weight"][3, 4:6] = value
        return found

    model.edit_tensors(damage)
    with pytest.raises(IntakeError) as caught:
        load(model.path)
    assert caught.value.what == (
        "model.layers.1.mlp.down_proj.weight holds 2 NaN or infinite values among 10,240"
    )
    assert caught.value.where == str(model.path / "model.safetensors")
    assert store.digests() == []
    assert list((store.root / "tmp").iterdir()) == []


def test_a_buffer_that_the_network_does_not_use_may_hold_infinities(own_checkpoint, load):
    model = own_checkpoint("gpt2")
    mask = torch.full((1,), float("-inf"))
    model.edit_tensors(lambda found: {**found, "transformer.h.0.attn.masked_bias": mask})
    load(model.path)


def test_a_stored_head_that_the_config_ties_must_be_the_embedding(own_checkpoint, load):
    model = own_checkpoint("llama-tied")
    table = "model.embed_tokens.weight"
    model.edit_tensors(lambda found: {**found, "lm_head.weight": found[table].clone()})
    load(model.path)
    model.edit_tensors(lambda found: {**found, "lm_head.weight": found[table] + 1})
    with pytest.raises(IntakeError, match=r"ties lm_head\.weight to the embedding, but it is not") as caught:
        load(model.path)
    assert "tie_word_embeddings to false" in caught.value.fix


def test_a_copy_of_an_encoder_decoders_embedding_must_be_the_embedding(own_checkpoint, load):
    model = own_checkpoint("t5")
    name = "encoder.embed_tokens.weight"
    model.edit_tensors(lambda found: {**found, name: found["shared.weight"].clone()})
    load(model.path)
    model.edit_tensors(lambda found: {**found, name: found["shared.weight"] * 2})
    with pytest.raises(IntakeError, match=r"ties encoder\.embed_tokens\.weight to the embedding"):
        load(model.path)


def test_a_tokenizer_that_the_library_does_not_take_is_refused(own_checkpoint, load):
    model = own_checkpoint()
    vocabulary = json.loads((model.path / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    model.edit_json("tokenizer.json", model={"type": "Nonesuch", "vocab": vocabulary})
    with pytest.raises(IntakeError, match="not one that the tokenizers library") as caught:
        load(model.path)
    assert caught.value.where == str(model.path / "tokenizer.json")


def test_progress_counts_files_and_then_all_bytes_of_the_network(tiny_checkpoint, load):
    seen = []
    load(tiny_checkpoint("gpt2"), progress=lambda *event: seen.append(event))
    copied = [event for event in seen if event[2].startswith("copying")]
    assert len(copied) == 5
    assert all(0 <= done <= total for done, total, _ in seen)
    assert seen[-1] == (128_768 * 4, 128_768 * 4, "checked")


def test_a_source_that_changes_between_intake_and_copy_is_refused_by_its_own_name(own_checkpoint, load):
    model = own_checkpoint()
    weights = model.path / "model.safetensors"

    def change(done, total, what):
        if what == "copying model.safetensors":
            weights.write_bytes(weights.read_bytes()[:-4])

    with pytest.raises(IntakeError, match="cut short; it changed while it was loaded") as caught:
        load(model.path, progress=change)
    assert caught.value.where == str(weights)
