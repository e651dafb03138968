"""The families of two halves agree with what transformers builds, and refuse what they do not know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.model.families import Architecture, architecture

if TYPE_CHECKING:
    from pathlib import Path

T5 = {"vocab_size": 96, "d_model": 24, "d_kv": 10, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2,
      "num_heads": 4}  # fmt: skip
BART = {
    "vocab_size": 96, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 56, "max_position_embeddings": 64,
}  # fmt: skip
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5 1.1": (
        "T5ForConditionalGeneration", "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", T5),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART),
    "bart untied": ("BartForConditionalGeneration", "BartConfig", {**BART, "tie_word_embeddings": False}),
}  # fmt: skip


def built(name: str, tmp_path: Path) -> tuple[Architecture, Any]:
    """Our description of a checkpoint that transformers wrote, and its model."""
    import transformers
    from safetensors import safe_open

    class_name, config_name, values = CLASSES[name]
    model = getattr(transformers, class_name)(getattr(transformers, config_name)(**values))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        names = list(file.keys())
    return architecture(json.loads((tmp_path / "config.json").read_text()), "config.json", names), model


@pytest.mark.parametrize("name", CLASSES)
def test_linears_are_the_linear_modules_of_transformers(name: str, tmp_path: Path) -> None:
    from torch import nn

    ours, model = built(name, tmp_path)
    expected = {
        f"{path}.weight": (tuple(module.weight.shape), f"{path}.bias" if module.bias is not None else None)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and not (path == "lm_head" and name != "bart untied")
    }
    found = {each.name: ((each.out_features, each.in_features), each.bias) for each in ours.linears}
    assert found == expected
    assert ours.tied == (name != "bart untied")


@pytest.mark.parametrize("name", CLASSES)
def test_every_tensor_has_a_part_to_play_or_is_named_as_unused(name: str, tmp_path: Path) -> None:
    from ingot.stages.model.checkpoint import Checkpoint
    from ingot.stages.model.weights import check_tensors, expected_tensors

    ours, _ = built(name, tmp_path)
    tensors = Checkpoint.open(tmp_path).tensors
    check_tensors(tensors, ours, "here")
    unused = set(tensors.names()) - set(expected_tensors(ours))
    assert unused == ({"model.shared.weight"} if name == "bart untied" else set())


def test_the_halves_are_described_apart(tmp_path: Path) -> None:
    ours, _ = built("bart", tmp_path)
    assert ours.encoder is not None
    assert (ours.task, ours.encoder.task) == ("seq2seq-lm", "encoder")
    assert (len(ours.encoder.layers), len(ours.layers)) == (2, 3)
    assert (ours.encoder.heads, ours.heads, ours.encoder.head_dim, ours.head_dim) == (4, 3, 6, 8)
    assert all(layer.cross_attention for layer in ours.layers)
    assert not any(layer.cross_attention for layer in ours.encoder.layers)


def test_a_t5_scales_its_logits_as_its_config_says(tmp_path: Path) -> None:
    assert built("t5", tmp_path / "a")[0].head_scale == pytest.approx(24**-0.5)
    assert built("t5 1.1", tmp_path / "b")[0].head_scale == 1
    assert built("mt5", tmp_path / "c")[0].head_scale == 1


def test_a_target_begins_with_padding_where_a_t5_does_not_say() -> None:
    config = {"model_type": "t5", **T5, "pad_token_id": 7}
    assert architecture(config, "config.json").decoder_start == 7
    assert architecture({**config, "decoder_start_token_id": 0}, "config.json").decoder_start == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "t5", **T5, "feed_forward_proj": "gated-mish"},
            "feed_forward_proj: 'gated-mish' is not",
        ),
        ({"model_type": "t5", **T5, "architectures": ["T5EncoderModel"]}, "is not one of T5ForConditional"),
        ({"model_type": "bart", **BART, "encoder_attention_heads": 5}, "not a multiple of encoder_attention"),
        (
            {"model_type": "bart", **BART, "architectures": ["BartForSequenceClassification"]},
            "BartForSequenceClassification",
        ),
    ],
)
def test_a_value_that_the_graphs_cannot_compute_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(IntakeError, match=message):
        architecture(config, "config.json")
