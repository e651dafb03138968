"""Both graphs of an encoder-decoder compute what PyTorch computes, and hold what they share once."""

from __future__ import annotations

import functools
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from .conftest import quantize, save
from .oracle_pairs import OnnxPair, TorchPair, largest_pair_difference, pair_cases
from .test_quantized import with_restored

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOLERANCE = 1e-4
PAIRS = ("t5", "bart")
PAIR_CASES = tuple(pair_cases(320))
T5_SHAPE = {"vocab_size": 320, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3}
PAIR_VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5 1.1 with a gated gelu and logits that are not scaled": (
        "T5ForConditionalGeneration", "T5Config",
        {**T5_SHAPE, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "t5 with a gated silu": (
        "T5ForConditionalGeneration", "T5Config", {**T5_SHAPE, "feed_forward_proj": "gated-silu"},
    ),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", {**T5_SHAPE, "feed_forward_proj": "gated-gelu"}),
    "bart with scaled embeddings and a relu": (
        "BartForConditionalGeneration", "BartConfig",
        {
            "vocab_size": 320, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2,
            "encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 48, "max_position_embeddings": 64, "scale_embedding": True,
            "activation_function": "relu",
        },
    ),
    "bart with three embeddings": (
        "BartForConditionalGeneration", "BartConfig",
        {
            "vocab_size": 320, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 40, "max_position_embeddings": 64, "tie_word_embeddings": False,
        },
    ),
    "bart as its pretraining left it, without a bias on its logits": (
        "BartModel", "BartConfig",
        {
            "vocab_size": 320, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 40, "max_position_embeddings": 64,
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def halves(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Any, export: Any
) -> Callable[[str], tuple[OnnxPair, TorchPair]]:
    """Both sides of an encoder-decoder, made once."""

    @functools.cache
    def make(name: str) -> tuple[OnnxPair, TorchPair]:
        directory = tiny_checkpoint(name) if name in PAIRS else tmp_path_factory.mktemp("halves")
        if name not in PAIRS:
            save(*PAIR_VARIANTS[name], directory)
        return OnnxPair(export(directory).directory), TorchPair(directory)

    return make


@pytest.mark.parametrize("case", PAIR_CASES)
@pytest.mark.parametrize("name", [*PAIRS, *PAIR_VARIANTS])
def test_an_encoder_decoder_computes_what_pytorch_computes(name: str, case: str, halves: Any) -> None:
    onnx_pair, torch_pair = halves(name)
    assert largest_pair_difference(onnx_pair, torch_pair, pair_cases(320)[case]) <= TOLERANCE


def test_a_head_of_its_own_is_used_though_a_newer_config_calls_the_model_tied(
    tmp_path: Path, export: Any
) -> None:
    from safetensors.numpy import load_file, save_file

    save(*PAIR_VARIANTS["t5 1.1 with a gated gelu and logits that are not scaled"], tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = np.random.default_rng(3).normal(size=(320, 32)).astype(np.float32)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    case = pair_cases(320)["batch 2"]
    exported = export(tmp_path)
    assert largest_pair_difference(OnnxPair(exported.directory), TorchPair(tmp_path), case) <= TOLERANCE


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 32)])
def test_quantized_graphs_compute_with_the_dequantized_weights(
    family: str, bits: int, group: int, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    from ingot.stages.model.checkpoint import Checkpoint

    directory = tiny_checkpoint(family)
    model = Checkpoint.open(directory).architecture
    form = {"bits": bits, "group_size": group, "sym": True}
    names = dict.fromkeys((model.embedding, *(linear.name for linear in model.linears)), form)
    restored = quantize(directory, tmp_path / "q", names)
    exported = export(tmp_path / "q", "quantized-checkpoint", accuracy_level=0)
    reference = TorchPair(with_restored(directory, tmp_path / "restored", restored))
    case = pair_cases(320)["batch 2 with a padded source"]
    assert largest_pair_difference(OnnxPair(exported.directory), reference, case) <= TOLERANCE
    assert exported.result.facts["weights_by_width"][f"int{bits}"]["tensors"] == len(restored)


@pytest.mark.parametrize("family", PAIRS)
def test_what_both_graphs_use_is_in_the_files_once(family: str, tiny_checkpoint: Any, export: Any) -> None:
    source = tiny_checkpoint(family)
    exported = export(source)
    sizes = {path.name: path.stat().st_size for path in exported.directory.iterdir()}
    embedding = 320 * 64 * 4
    assert sizes["model.onnx.data"] == embedding
    graphs = sizes["encoder.onnx"] + sizes["model.onnx"] + sizes["model.onnx.data"]
    assert graphs < (source / "model.safetensors").stat().st_size + 100_000
    for name in ("encoder.onnx", "model.onnx"):
        model = onnx.load(exported.directory / name, load_external_data=False)
        outside = [each.name for each in model.graph.initializer if each.data_location]
        assert len(outside) == 1
        assert outside[0].endswith("shared.weight")


def test_large_models_have_all_their_weights_in_one_file_beside_both_graphs(
    tiny_checkpoint: Any, export: Any
) -> None:
    directory = tiny_checkpoint("bart")
    exported = export(directory, external_data_above_bytes=0).directory
    assert (exported / "model.onnx.data").stat().st_size > (exported / "model.onnx").stat().st_size
    case = pair_cases(320)["batch 2"]
    assert largest_pair_difference(OnnxPair(exported), TorchPair(directory), case) <= TOLERANCE


def test_the_session_file_describes_both_graphs(tiny_checkpoint: Any, export: Any) -> None:
    exported = export(tiny_checkpoint("t5"))
    session = json.loads((exported.directory / "ingot.json").read_text())
    pair = OnnxPair(exported.directory)
    assert session["task"] == "seq2seq-lm"
    assert session["inputs"] == [value.name for value in pair.decoder.get_inputs()]
    assert session["outputs"] == [value.name for value in pair.decoder.get_outputs()]
    assert session["encoder"]["inputs"] == ["input_ids", "attention_mask"]
    assert session["encoder"]["outputs"] == [value.name for value in pair.encoder.get_outputs()]
    assert session["encoder"]["outputs"][0] == "last_hidden_state"
    assert session["cross"].format(layer=1, part="value") in session["encoder"]["outputs"]
    assert session["decoder_start_id"] == 2
    assert session["first_id"] is None


def test_batch_source_target_and_past_are_dynamic_and_all_else_is_fixed(
    tiny_checkpoint: Any, export: Any
) -> None:
    pair = OnnxPair(export(tiny_checkpoint("t5")).directory)
    values = (*pair.decoder.get_inputs(), *pair.decoder.get_outputs())
    shapes = {value.name: value.shape for value in values}
    assert shapes["input_ids"] == ["batch", "sequence"]
    assert shapes["encoder_attention_mask"] == ["batch", "source"]
    assert shapes["cross_key_values.0.key"] == ["batch", 4, "source", 24]
    assert shapes["past_key_values.1.value"] == ["batch", 4, "past", 24]
    assert shapes["logits"] == ["batch", "kept", 320]


def test_a_missing_tensor_of_the_decoder_is_named(tiny_checkpoint: Any, export: Any, tmp_path: Path) -> None:
    from ingot.artifacts.errors import IntakeError
    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(tiny_checkpoint("bart"), tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    name = "model.decoder.layers.1.encoder_attn.k_proj.weight"
    del tensors[name]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntakeError, match=name):
        export(directory)
