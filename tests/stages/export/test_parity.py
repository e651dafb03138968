"""The exported graph computes what PyTorch computes, for every family and every way of calling it."""

from __future__ import annotations

import functools
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from .conftest import save
from .oracle import OnnxModel, TorchModel, cases, largest_difference
from .variants import DECODERS
from .variants import VARIANTS as DECODER_VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOLERANCE = 1e-4
CASES = tuple(cases(320))
CLASSES = {
    "llama": "LlamaForCausalLM",
    "llama-tied": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    **dict.fromkeys(DECODERS, "AutoModelForCausalLM"),
}
ENCODERS = {"bert": "BertModel", "roberta": "RobertaModel", "distilbert": "DistilBertModel"}
ENCODER_SHAPE = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip
SHAPE = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
# Variants of a family that its tiny checkpoint does not show: class, config class, values.
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mistral whose window is shorter than the text": (
        "MistralForCausalLM", "MistralConfig", {**SHAPE, "sliding_window": 7},
    ),
    "qwen2 with windows in its upper layers": (
        "Qwen2ForCausalLM", "Qwen2Config",
        {**SHAPE, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "llama with llama3 frequencies": (
        "LlamaForCausalLM", "LlamaConfig", {**SHAPE, "rope_parameters": LLAMA3},
    ),
    "llama with linear frequencies": (
        "LlamaForCausalLM", "LlamaConfig",
        {**SHAPE, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "llama with biases everywhere": (
        "LlamaForCausalLM", "LlamaConfig", {**SHAPE, "attention_bias": True, "mlp_bias": True},
    ),
    "llama with as many key heads as query heads and a gelu": (
        "LlamaForCausalLM", "LlamaConfig", {**SHAPE, "num_key_value_heads": 4, "hidden_act": "gelu"},
    ),
    "gpt2 with a head of its own and a relu": (
        "GPT2LMHeadModel", "GPT2Config",
        {
            "vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 40,
            "tie_word_embeddings": False, "activation_function": "relu",
        },
    ),
    **DECODER_VARIANTS,
}  # fmt: skip


@pytest.fixture(scope="session")
def pair(tiny_checkpoint: Any, export: Any) -> Callable[[str], tuple[OnnxModel, TorchModel]]:
    """Both sides of a family's checkpoint, made once."""

    @functools.cache
    def make(family: str) -> tuple[OnnxModel, TorchModel]:
        directory = tiny_checkpoint(family)
        return OnnxModel(export(directory).directory), TorchModel(directory, CLASSES[family])

    return make


@pytest.fixture(scope="session")
def variant_pair(
    tmp_path_factory: pytest.TempPathFactory, export: Any
) -> Callable[[str], tuple[OnnxModel, TorchModel]]:
    """Both sides of a variant, made once."""

    @functools.cache
    def make(name: str) -> tuple[OnnxModel, TorchModel]:
        directory = tmp_path_factory.mktemp("variant")
        save_variant(name, directory)
        return OnnxModel(export(directory).directory), TorchModel(directory, VARIANTS[name][0])

    return make


def save_variant(name: str, directory: Path) -> None:
    class_name, config_name, values = VARIANTS[name]
    save(class_name, config_name, values, directory)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", CLASSES)
def test_a_decoder_computes_what_pytorch_computes(family: str, case: str, pair: Any) -> None:
    onnx_model, torch_model = pair(family)
    assert largest_difference(onnx_model, torch_model, cases(320)[case]) <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_a_family_computes_what_pytorch_computes(
    name: str, case: str, variant_pair: Any
) -> None:
    onnx_model, torch_model = variant_pair(name)
    assert largest_difference(onnx_model, torch_model, cases(320)[case]) <= TOLERANCE


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_computes_what_pytorch_computes_for_a_padded_batch(
    family: str, tiny_checkpoint: Any, export: Any
) -> None:
    directory = tiny_checkpoint(family)
    onnx_model = OnnxModel(export(directory).directory)
    rng = np.random.default_rng(0)
    # Padding's own id among them, which takes no position in RoBERTa.
    feeds = {"input_ids": rng.integers(0, 320, (2, 24)), "attention_mask": np.ones((2, 24), np.int64)}
    feeds["input_ids"][0, 5] = 2
    feeds["attention_mask"][1, 15:] = 0
    if "token_type_ids" in {value.name for value in onnx_model.session.get_inputs()}:
        feeds["token_type_ids"] = rng.integers(0, 2, (2, 24))
    ours, _ = onnx_model(feeds)
    theirs = TorchModel(directory, ENCODERS[family]).hidden(feeds)
    visible = feeds["attention_mask"].astype(bool)
    assert_allclose(ours[visible], theirs[visible], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("class_name", "config_name", "values"),
    [
        ("RobertaForMaskedLM", "RobertaConfig", {"max_position_embeddings": 64, "pad_token_id": 0}),
        ("XLMRobertaForMaskedLM", "XLMRobertaConfig", {"max_position_embeddings": 64, "type_vocab_size": 2}),
        (
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            {"sinusoidal_pos_embds": True, "dim": 32, "n_heads": 4},
        ),
    ],
)
def test_a_masked_language_models_encoder_is_exported_without_its_head(
    class_name: str, config_name: str, values: dict[str, Any], tmp_path: Path, export: Any
) -> None:
    save(class_name, config_name, {**ENCODER_SHAPE, **values}, tmp_path)
    onnx_model = OnnxModel(export(tmp_path).directory)
    ids = np.random.default_rng(1).integers(0, 320, (2, 20))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if "token_type_ids" in {value.name for value in onnx_model.session.get_inputs()}:
        feeds["token_type_ids"] = np.zeros_like(ids)
    ours, _ = onnx_model(feeds)
    assert_allclose(ours, TorchModel(tmp_path, "AutoModel").hidden(feeds), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_widened_exactly(dtype: str, tiny_checkpoint: Any, export: Any) -> None:
    directory = tiny_checkpoint("llama", dtype=dtype)
    onnx_model = OnnxModel(export(directory).directory)
    torch_model = TorchModel(directory, "LlamaForCausalLM")
    assert largest_difference(onnx_model, torch_model, cases(320)["prefill"]) <= TOLERANCE


def test_a_sharded_checkpoint_gives_the_same_bytes_as_a_single_file(
    tiny_checkpoint: Any, export: Any
) -> None:
    single = export(tiny_checkpoint("llama")).directory / "model.onnx"
    sharded = export(tiny_checkpoint("llama", max_shard_size="100KB")).directory / "model.onnx"
    assert single.read_bytes() == sharded.read_bytes()


def test_logits_from_minus_one_gives_the_last_position_alone(pair: Any) -> None:
    onnx_model, _ = pair("llama")
    feeds = cases(320)["prefill"].steps()[0]
    whole, _ = onnx_model(feeds)
    last, _ = onnx_model({**feeds, "logits_from": np.array([-1])})
    assert last.shape == (1, 1, 320)
    assert_allclose(last[:, 0], whole[:, -1], atol=1e-5)


def test_gpt2_published_without_the_prefix_is_exported(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    directory = tiny_checkpoint("gpt2")
    bare = tmp_path / "bare"
    shutil.copytree(directory, bare)
    tensors = load_file(bare / "model.safetensors")
    save_file({k.removeprefix("transformer."): v for k, v in tensors.items()}, bare / "model.safetensors")
    feeds = cases(320)["prefill"].steps()[0]
    assert_allclose(
        OnnxModel(export(bare).directory)(feeds)[0], OnnxModel(export(directory).directory)(feeds)[0]
    )


def test_bert_with_the_old_names_of_its_norms_is_exported(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    directory = tiny_checkpoint("bert")
    old = tmp_path / "old"
    shutil.copytree(directory, old)
    tensors = load_file(old / "model.safetensors")
    before, after = ("LayerNorm.weight", "LayerNorm.bias"), ("LayerNorm.gamma", "LayerNorm.beta")
    renamed = {}
    for name, value in tensors.items():
        for new, given in zip(before, after, strict=True):
            name = name.replace(new, given)
        renamed[f"bert.{name}"] = value
    save_file(renamed, old / "model.safetensors")
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    ids = np.arange(10)[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    assert_allclose(
        OnnxModel(export(old).directory)(feeds)[0], OnnxModel(export(directory).directory)(feeds)[0]
    )
