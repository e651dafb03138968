"""The table of families agrees with what transformers builds, and refuses what it does not know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.model.families import FAMILIES, Architecture, architecture

from .test_decoders import FAMILIES as DECODERS

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 24}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 40}),
    "bert": ("BertModel", "BertConfig", {}),
    "roberta": ("RobertaModel", "RobertaConfig", {}),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaConfig", {}),
    "distilbert": ("DistilBertModel", "DistilBertConfig", {"hidden_dim": 40}),
}
ENCODER_DECODERS = ("t5", "mt5", "bart")  # compared in test_encoder_decoders.py
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert")

SHAPE = {
    "vocab_size": 96, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
LLAMA: dict[str, object] = {"model_type": "llama", **SHAPE, **GROUPED, "max_position_embeddings": 64}


def built(family: str, tmp_path: Path, **more: Any) -> tuple[Architecture, Any]:
    """Our description of a config that transformers wrote, and its model without weights."""
    import torch
    import transformers

    class_name, config_name, values = CLASSES[family]
    shape: dict[str, Any] = {**SHAPE, **(GROUPED if family not in (*ENCODERS, "gpt2") else {})}
    config = getattr(transformers, config_name)(**{**shape, **values, **more})
    with torch.device("meta"):
        model = getattr(transformers, class_name)(config)
    config.architectures = [class_name]
    config.save_pretrained(tmp_path)
    return architecture(json.loads((tmp_path / "config.json").read_text()), "config.json"), model


def test_every_family_is_compared_with_transformers() -> None:
    assert {*CLASSES, *DECODERS, *ENCODER_DECODERS} == set(FAMILIES)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", CLASSES)
def test_linears_are_the_linear_modules_of_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    ours, model = built(family, tmp_path, tie_word_embeddings=tied)
    expected = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and not name.startswith("pooler"):
            expected[f"{name}.weight"] = (
                tuple(module.weight.shape),
                f"{name}.bias" if module.bias is not None else None,
            )
    if tied:
        expected.pop("lm_head.weight", None)
    found = {}
    for linear in ours.linears:
        shape = (linear.out_features, linear.in_features)
        found[linear.name] = (shape[::-1] if linear.stored_in_out else shape, linear.bias)
    assert found == expected
    assert ours.tied == (tied and family not in ENCODERS)
    assert ours.lm_head == (None if ours.tied or family in ENCODERS else "lm_head.weight")


@pytest.mark.parametrize("family", CLASSES)
def test_every_parameter_has_a_part_to_play(family: str, tmp_path: Path) -> None:
    ours, model = built(family, tmp_path, tie_word_embeddings=False)
    named = {linear.name for linear in ours.linears} | {linear.bias for linear in ours.linears}
    norms = [ours.embedding_norm, ours.final_norm]
    for layer in ours.layers:
        norms += [layer.attention_norm, layer.feed_forward_norm]
        norms += [layer.attention.query_norm, layer.attention.key_norm]
    named |= {name for norm in norms if norm for name in (norm.weight, norm.bias)}
    named |= {ours.embedding, ours.position_embedding, ours.token_type_embedding}
    parameters = {name for name, _ in model.named_parameters() if not name.startswith("pooler")}
    assert named - {None} == parameters


def test_roles_are_found_in_every_layer(tmp_path: Path) -> None:
    ours, _ = built("llama", tmp_path)
    roles = [linear.role for linear in ours.linears if linear.layer == 1]
    assert roles == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_older_rope_keys_are_understood() -> None:
    scaling = {
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    rope = architecture({**LLAMA, "rope_theta": 5e5, "rope_scaling": scaling}, "config.json").rope
    assert rope is not None
    assert (rope.theta, rope.kind, rope.scaling) == (
        5e5, "llama3",
        {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192.0,
        },
    )  # fmt: skip


def test_windows_follow_layer_types() -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    found = architecture(
        {**LLAMA, "model_type": "qwen2", "sliding_window": 9, "layer_types": kinds}, "config.json"
    )
    assert [layer.attention.window for layer in found.layers] == [9, None, 9]


def test_an_unknown_model_type_names_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(IntakeError, match="model_type 'lama' is not a known architecture") as caught:
        architecture({"model_type": "lama"}, "x/config.json")
    assert caught.value.where == "x/config.json"
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("did you mean llama?")
    assert all(name in caught.value.fix for name in FAMILIES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "24"}, "hidden_size: '24' is not a whole number above zero"),
        ({"num_hidden_layers": True}, "num_hidden_layers: True is not a whole number"),
        ({"hidden_size": 26}, "hidden_size: 26 is not a multiple of num_attention_heads, 4"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide"),
        ({"hidden_act": "mish"}, "hidden_act: 'mish' is not one of"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "is not one of LlamaForCausalLM"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "a type that is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "rope_scaling.factor: -1 is not a number above"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps: inf is not a number above zero"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: 'yes' is not true or false"),
        ({"sliding_window": 4, "layer_types": ["full_attention"]}, "does not give each of 3 layers"),
    ],
)
def test_a_value_that_the_graph_cannot_compute_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(IntakeError, match=message) as caught:
        architecture({**LLAMA, **change}, "config.json")
    assert caught.value.where == "config.json"


def test_positions_of_roberta_start_behind_padding() -> None:
    config = {"model_type": "roberta", **SHAPE, "max_position_embeddings": 514, "pad_token_id": 1}
    found = architecture(config, "config.json")
    assert (found.context, found.position_offset, found.position_padding) == (512, 2, 1)
    with pytest.raises(IntakeError, match="leaves no position behind pad_token_id, 513"):
        architecture({**config, "pad_token_id": 513}, "config.json")
    with pytest.raises(IntakeError, match="pad_token_id: -1 is not a token's id"):
        architecture({**config, "pad_token_id": -1}, "config.json")


def test_a_bert_with_a_trained_task_head_is_refused_rather_than_stripped() -> None:
    config = {"model_type": "bert", **SHAPE, "architectures": ["BertForSequenceClassification"]}
    with pytest.raises(IntakeError, match="BertForSequenceClassification"):
        architecture(config, "config.json")


def test_a_checkpoint_without_the_usual_prefix_is_recognised_even_when_it_is_quantized() -> None:
    config = {"model_type": "gpt2", "n_embd": 24, "n_layer": 1, "n_head": 4, "vocab_size": 96}
    names = ["wte.weight.codes", "wte.weight.scales", "h.0.attn.c_attn.weight"]
    assert architecture(config, "config.json", names).embedding == "wte.weight"
    assert architecture(config, "config.json").embedding == "transformer.wte.weight"
