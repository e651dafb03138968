"""What intake says of good checkpoints, against transformers, and how it refuses bad ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from ingot.artifacts.errors import IntakeError
from ingot.stages.load.intake import inspect_source

ENCODERS = ("bert", "roberta", "distilbert")
PAIRS = ("t5", "bart")
FAMILIES = ("llama", "llama-tied", "qwen2", "qwen3", "gpt2", *ENCODERS, *PAIRS)


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_are_those_that_transformers_finds_when_it_loads_the_model(tiny_checkpoint, family):
    import transformers

    directory = tiny_checkpoint(family)
    facts = inspect_source(directory)
    config = transformers.AutoConfig.from_pretrained(directory)
    # The pooler of an encoder has no part in the last hidden state, which is what Ingot exports.
    options = {"add_pooling_layer": False} if family in ("bert", "roberta") else {}
    model = getattr(transformers, facts.architecture).from_pretrained(directory, **options)
    # The constant bias on BART's logits is a buffer in transformers.
    assert facts.parameters == model.num_parameters() + (320 if family == "bart" else 0)
    task = {**dict.fromkeys(ENCODERS, "encoder"), **dict.fromkeys(PAIRS, "seq2seq-lm")}
    assert facts.task == task.get(family, "causal-lm")
    assert facts.tied == (family in ("llama-tied", "qwen2", "qwen3", "gpt2", *PAIRS))
    assert (facts.model_type, facts.vocabulary) == (config.model_type, config.vocab_size)
    layers = {"t5": "num_decoder_layers", "bart": "decoder_layers"}.get(family, "num_hidden_layers")
    assert (facts.layers, facts.hidden) == (getattr(config, layers), config.hidden_size)
    # RoBERTa's table of positions has a row for each id up to that of padding, 2, before the first.
    positions = config.n_positions if family == "t5" else config.max_position_embeddings
    assert facts.context == positions - (3 if family == "roberta" else 0) == 128
    assert facts.weight_bytes == (directory / "model.safetensors").stat().st_size
    assert facts.dtype == "float32"


def test_shards_and_half_precision_change_bytes_and_dtype_but_not_the_model(tiny_checkpoint):
    whole = inspect_source(tiny_checkpoint("llama"))
    directory = tiny_checkpoint("llama", dtype="bfloat16", max_shard_size="100KB")
    shards = list(directory.glob("model-*.safetensors"))
    assert len(shards) > 1
    facts = inspect_source(directory)
    assert (facts.parameters, facts.dtype) == (whole.parameters, "bfloat16")
    assert facts.weight_bytes == sum(shard.stat().st_size for shard in shards)


def test_identity_does_not_depend_on_the_directory(tiny_checkpoint, tmp_path):
    original = tiny_checkpoint("gpt2")
    copy = shutil.copytree(original, tmp_path / "elsewhere")
    assert inspect_source(copy).identity() == inspect_source(original).identity()
    assert inspect_source(copy).source == {"uri": "elsewhere"}


def test_intake_imports_nothing_heavy_and_takes_a_few_milliseconds(tiny_checkpoint):
    directory = tiny_checkpoint("llama")
    program = (
        "import pathlib, sys\n"
        "from ingot.stages.load.stage import run\n"
        "from ingot.stages.load.intake import inspect_source\n"
        "inspect_source(pathlib.Path(sys.argv[1]))\n"
        "heavy = {'numpy', 'torch', 'transformers', 'huggingface_hub', 'tokenizers', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, directory], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        inspect_source(directory)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02


def test_a_model_without_its_usual_prefix_is_the_same_model(own_checkpoint):
    model = own_checkpoint("gpt2")
    before = inspect_source(model.path)
    model.edit_tensors(lambda found: {name.removeprefix("transformer."): w for name, w in found.items()})
    assert inspect_source(model.path).parameters == before.parameters


def test_unused_buffers_and_heads_of_older_checkpoints_pass(own_checkpoint):
    model = own_checkpoint("gpt2")
    before = inspect_source(model.path)
    model.edit_tensors(
        lambda found: {
            **found,
            "transformer.h.0.attn.bias": torch.ones(1, 1, 128, 128, dtype=torch.uint8),
            "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
            "lm_head.weight": found["transformer.wte.weight"].clone(),
        }
    )
    assert inspect_source(model.path).parameters == before.parameters


def test_a_path_that_does_not_exist_is_refused_with_the_name_that_was_meant(own_checkpoint, tmp_path):
    path = own_checkpoint().path
    with pytest.raises(IntakeError, match="does not exist") as caught:
        inspect_source(tmp_path / "modle")
    assert caught.value.fix == f"did you mean {path}?"
    with pytest.raises(IntakeError) as caught:
        inspect_source(tmp_path / "nowhere" / "at" / "all")
    assert "org/name@revision" in caught.value.fix


def test_a_file_instead_of_a_directory_is_refused(own_checkpoint):
    path = own_checkpoint().path
    with pytest.raises(IntakeError, match="is a file") as caught:
        inspect_source(path / "model.safetensors")
    assert str(path) in caught.value.fix


def test_a_directory_without_config_is_refused(own_checkpoint):
    model = own_checkpoint()
    (model.path / "config.json").unlink()
    assert "config.json cannot be read" in model.refusal().what


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{'model_type': 'llama'}", "is not JSON"),
        (b"[1, 2]", "is not a JSON object"),
        (b'{"model_type": "\xff"}', "is not UTF-8"),
        (b'{"model_type": "llama", "model_type": "gpt2"}', "'model_type' twice"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"", "is not JSON"),
    ],
)
def test_a_config_that_is_not_a_json_object_is_refused(own_checkpoint, content, message):
    model = own_checkpoint()
    (model.path / "config.json").write_bytes(content)
    refusal = model.refusal()
    assert message in refusal.what
    assert refusal.where == str(model.path / "config.json")


def test_an_unknown_architecture_is_refused(own_checkpoint):
    model = own_checkpoint()
    model.edit_json("config.json", model_type="lama")
    assert "'lama' is not a known architecture" in model.refusal().what
    assert "did you mean llama?" in model.refusal().fix


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_checkpoints_own_is_refused(own_checkpoint, name):
    model = own_checkpoint()
    model.edit_json(name, auto_map={"AutoModel": "modeling.Mine"})
    refusal = model.refusal()
    assert refusal.what.startswith("auto_map:")
    assert refusal.where == str(model.path / name)


def test_weights_that_are_quantized_already_are_refused(own_checkpoint):
    model = own_checkpoint()
    model.edit_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantized already (gptq)" in model.refusal().what


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_an_empty_or_truncated_weight_file_is_refused(own_checkpoint, keep):
    model = own_checkpoint()
    weights = model.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refusal = model.refusal()
    assert "not a usable safetensors file" in refusal.what
    assert refusal.where == str(weights)


def test_missing_weights_are_refused(own_checkpoint):
    model = own_checkpoint()
    (model.path / "model.safetensors").unlink()
    assert "holds no weights" in model.refusal().what


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"])
def test_pickled_weights_alone_are_refused_and_beside_safetensors_ignored(own_checkpoint, name):
    model = own_checkpoint()
    (model.path / name).write_bytes(b"\x80\x04.")
    inspect_source(model.path)
    (model.path / "model.safetensors").unlink()
    assert f"pickled ({name})" in model.refusal().what


def test_an_adapter_is_refused_for_what_it_is(own_checkpoint):
    model = own_checkpoint()
    (model.path / "model.safetensors").rename(model.path / "adapter_model.safetensors")
    assert "an adapter, not a model" in model.refusal().what


def test_weights_under_another_name_are_refused_with_a_way_out(own_checkpoint):
    model = own_checkpoint()
    (model.path / "model.safetensors").rename(model.path / "weights.safetensors")
    assert "it holds weights.safetensors, but neither" in model.refusal().what


@pytest.fixture
def sharded(own_checkpoint):
    return own_checkpoint("llama", max_shard_size="200KB")


def shards(model):
    return sorted(model.path.glob("model-*.safetensors"))


def weight_map(model):
    return json.loads((model.path / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]


def test_an_index_that_names_a_missing_shard_is_refused(sharded):
    shards(sharded)[1].unlink()
    refusal = sharded.refusal()
    assert refusal.what == "the shard model-00002-of-00003.safetensors is missing"
    assert refusal.where.endswith("model.safetensors.index.json")


@pytest.mark.parametrize(
    "shard", ["../other/model.safetensors", "/etc/x.safetensors", "..", 7, "weights.bin"]
)
def test_an_index_that_names_a_shard_outside_the_directory_is_refused(sharded, shard):
    names = weight_map(sharded)
    sharded.edit_json("model.safetensors.index.json", weight_map={**names, min(names): shard})
    assert "not the name of a .safetensors file of this directory" in sharded.refusal().what


@pytest.mark.parametrize("value", [{}, [], None])
def test_an_index_without_a_weight_map_is_refused(sharded, value):
    sharded.edit_json("model.safetensors.index.json", weight_map=value)
    assert "no weight_map" in sharded.refusal().what


def test_an_index_that_disagrees_with_its_shards_is_refused(sharded):
    names = weight_map(sharded)
    first = next(iter(names))
    sharded.edit_json(
        "model.safetensors.index.json", weight_map={n: s for n, s in names.items() if n != first}
    )
    assert "it does not name, though a shard holds it" in sharded.refusal().what
    sharded.edit_json("model.safetensors.index.json", weight_map={**names, "model.ghost": names[first]})
    assert "its shards lack 'model.ghost'" in sharded.refusal().what


def test_a_tensor_in_two_shards_is_refused(sharded):
    import safetensors.torch

    first, second = shards(sharded)[:2]
    both = {**safetensors.torch.load_file(second), **safetensors.torch.load_file(first)}
    safetensors.torch.save_file(both, second)
    assert "is stored twice" in sharded.refusal().what


def test_shards_without_an_index_are_refused(sharded):
    (sharded.path / "model.safetensors.index.json").unlink()
    assert "download the index" in sharded.refusal().fix


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "README.md", "LICENSE"]
)
def test_a_symlink_out_of_the_directory_is_refused(own_checkpoint, tmp_path, name):
    model = own_checkpoint()
    outside = tmp_path / "outside"
    link = model.path / name
    if link.exists():
        shutil.move(link, outside)
    else:
        outside.write_text("secret")
    link.symlink_to(outside)
    assert f"{name} is a symlink out of the checkpoint" in model.refusal().what


def test_a_symlink_inside_the_directory_passes_and_loops_and_dead_ones_do_not(own_checkpoint):
    model = own_checkpoint()
    weights = model.path / "model.safetensors"
    weights.rename(model.path / "blob")
    weights.symlink_to("blob")
    inspect_source(model.path)
    (model.path / "blob").unlink()
    assert "model.safetensors cannot be read: No such file" in model.refusal().what
    weights.unlink()
    weights.symlink_to("model.safetensors")
    assert "model.safetensors cannot be read: its symlinks form a loop" in model.refusal().what


def test_a_pipe_in_place_of_weights_is_refused_at_once(own_checkpoint):
    model = own_checkpoint()
    weights = model.path / "model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    assert "is not a regular file" in model.refusal().what


def test_missing_misshaped_and_unexpected_tensors_are_all_named(own_checkpoint):
    model = own_checkpoint()

    def damage(found):
        del found["model.norm.weight"]
        found["lm_head.weight"] = found["lm_head.weight"][:, :60].contiguous()
        found["model.layers.0.mlp.up_proj.bias"] = torch.zeros(160)
        return found

    model.edit_tensors(damage)
    assert model.refusal().what == (
        "the weights do not fit config.json: missing: model.norm.weight; "
        "wrong shape: lm_head.weight is [320, 60] instead of [320, 64]; "
        "unexpected: model.layers.0.mlp.up_proj.bias"
    )


def test_a_long_list_of_missing_tensors_is_shortened(own_checkpoint):
    model = own_checkpoint()
    model.edit_json("config.json", num_hidden_layers=3)
    assert "and 6 more" in model.refusal().what


def test_an_absent_head_that_is_not_tied_is_refused_with_the_likely_remedy(own_checkpoint):
    model = own_checkpoint("llama-tied")
    model.edit_json("config.json", tie_word_embeddings=False)
    refusal = model.refusal()
    assert "missing: lm_head.weight" in refusal.what
    assert "set tie_word_embeddings to true" in refusal.fix


def test_integer_weights_are_refused(own_checkpoint):
    model = own_checkpoint()
    model.edit_tensors(lambda found: {**found, "model.norm.weight": torch.ones(64, dtype=torch.int8)})
    assert "not floating-point: model.norm.weight is I8" in model.refusal().what


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(own_checkpoint):
    model = own_checkpoint()
    tokenizer = json.loads((model.path / "tokenizer.json").read_text("utf-8"))
    extra = {**tokenizer["added_tokens"][0], "id": 320, "content": "<|one too many|>"}
    model.edit_json("tokenizer.json", added_tokens=[*tokenizer["added_tokens"], extra])
    assert "'<|one too many|>' has id 320, but vocab_size is 320" in model.refusal().what
    grown = {**tokenizer["model"], "vocab": {**tokenizer["model"]["vocab"], "zebra": 400}}
    model.edit_json("tokenizer.json", added_tokens=tokenizer["added_tokens"], model=grown)
    assert "'zebra' has id 400" in model.refusal().what


def test_a_smaller_tokenizer_passes_and_unigram_counts_its_list(own_checkpoint):
    model = own_checkpoint()
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}
    model.edit_json("tokenizer.json", model=unigram, added_tokens=[])
    inspect_source(model.path)
    unigram["vocab"] = [[f"t{number}", -1.0] for number in range(321)]
    model.edit_json("tokenizer.json", model=unigram)
    assert "'t320' has id 320" in model.refusal().what


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {"vocab": 7}},
        {"model": {"vocab": {"a": "0"}}},
        {"model": {"vocab": {"a": -1}}},
        {"model": {"vocab": [[]]}},
        {"added_tokens": [{"id": 3}]},
        {"added_tokens": ["a"]},
        {"added_tokens": 5},
    ],
)
def test_a_malformed_tokenizer_is_refused(own_checkpoint, changes):
    model = own_checkpoint()
    model.edit_json("tokenizer.json", **changes)
    assert "tokenizer.json is malformed" in model.refusal().what


def test_a_tokenizer_without_tokens_is_refused(own_checkpoint):
    model = own_checkpoint()
    model.edit_json("tokenizer.json", model={"vocab": {}}, added_tokens=[])
    assert "has no tokens" in model.refusal().what


def test_a_missing_tokenizer_is_refused_and_what_there_is_instead_is_named(own_checkpoint):
    model = own_checkpoint()
    (model.path / "tokenizer.json").unlink()
    assert model.refusal().what == "there is no tokenizer.json, only tokenizer_config.json"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model", "apache-2.0"),
        ("---\ntags: [x]\nlicense: 'mit'\n---\n", "mit"),
        ("---\ntags: [x]\n---\nlicense: gpl-3.0\n", None),
        ("# Model\nlicense: mit\n", None),
        ("---\nlicense:\n- a\n---\n", None),
    ],
)
def test_the_licence_is_read_from_the_front_matter_of_the_model_card(own_checkpoint, card, licence):
    model = own_checkpoint()
    (model.path / "README.md").write_text(card)
    assert inspect_source(model.path).source.get("license") == licence
