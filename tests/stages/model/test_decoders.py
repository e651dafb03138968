"""Later decoder families: the tensors that transformers saves, older configs, and what is refused."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.families import Architecture, Mixture, architecture
from ingot.stages.model.weights import expected_tensors

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = (
    "phi", "phi3", "gemma", "gemma2", "gemma3_text", "gpt_neox", "opt", "mixtral", "qwen2_moe", "qwen3_moe",
)  # fmt: skip
SHAPE: dict[str, object] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS: dict[str, object] = {**SHAPE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
# Of microsoft/Phi-3-mini-128k-instruct, but for the sizes and the number of factors.
LONG: dict[str, object] = {
    **SHAPE, "model_type": "phi3", "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "su", "short_factor": [1, 1.1, 1.2, 1.3], "long_factor": [1, 2, 4, 8]},
}  # fmt: skip


def read(model_type: str, **values: Any) -> Architecture:
    return architecture({**SHAPE, "model_type": model_type, **values}, "config.json")


def windows(model: Architecture) -> list[int | None]:
    return [layer.attention.window for layer in model.layers]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_that_transformers_saves_are_those_of_the_architecture(
    family: str, tiny_checkpoint: Any
) -> None:
    opened = Checkpoint.open(tiny_checkpoint(family))
    saved = {name: opened.tensors.info(name).shape for name in opened.tensors.names()}
    assert expected_tensors(opened.architecture) == saved


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_may_be_quantized_but_embeddings_and_routers(family: str, tiny_checkpoint: Any) -> None:
    opened = Checkpoint.open(tiny_checkpoint(family))
    matrices = {name for name in opened.tensors.names() if len(opened.tensors.info(name).shape) == 2}
    kept = {name for name in matrices if "embed_" in name and "embed_out" not in name}
    kept |= {name for name in matrices if name.endswith((".gate.weight", "shared_expert_gate.weight"))}
    found = [linear.name for linear in opened.architecture.linears]
    assert sorted(found) == sorted(matrices - kept)


def test_experts_stand_in_the_layers_that_the_config_names() -> None:
    model = read("qwen3_moe", **EXPERTS, decoder_sparse_step=2, mlp_only_layers=[3])
    assert [isinstance(layer.feed_forward, Mixture) for layer in model.layers] == [False, True, False, False]


def test_experts_are_counted_under_both_names() -> None:
    older = read("qwen3_moe", **EXPERTS)
    newer = read("qwen3_moe", **{k: v for k, v in EXPERTS.items() if k != "num_experts"}, num_local_experts=4)
    assert older == newer


def test_experts_fused_into_one_tensor_are_refused_with_the_way_to_part_them() -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    with pytest.raises(IntakeError, match=f"the experts are fused into one tensor, {name}") as caught:
        architecture({"model_type": "qwen3_moe", **EXPERTS}, "config.json", [name])
    assert caught.value.fix is not None
    assert "save_pretrained" in caught.value.fix


def test_the_first_configs_of_phi_2_and_pythia_say_how_much_of_a_head_is_rotated() -> None:
    phi = read("phi", partial_rotary_factor=0.75, rope_theta=5000.0).rope
    neox = read("gpt_neox", rotary_pct=0.5, rotary_emb_base=2000).rope
    assert phi is not None
    assert neox is not None
    assert (phi.dim, phi.theta) == (6, 5000.0)
    assert (neox.dim, neox.theta) == (4, 2000.0)


def test_longrope_has_the_attention_factor_of_its_paper() -> None:
    rope = architecture(LONG, "config.json").rope
    assert rope is not None
    assert rope.kind == "longrope"
    assert rope.factors == ((1, 1.1, 1.2, 1.3), (1, 2, 4, 8))
    # Section 3.2 of arXiv:2402.13753, for 128k over 4k.
    assert rope.scaling == {
        "original_max_position_embeddings": 4096,
        "attention_factor": pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096))),
    }


def test_gemma_3_reads_the_two_rotations_of_its_first_configs() -> None:
    model = read(
        "gemma3_text", head_dim=8, rope_theta=1e6, rope_local_base_freq=1e4, sliding_window=9,
        sliding_window_pattern=3, rope_scaling={"rope_type": "linear", "factor": 8.0},
    )  # fmt: skip
    assert windows(model) == [9, 9, None, 9]
    local, whole = model.layers[0].attention.rope, model.layers[2].attention.rope
    assert local is not None
    assert (local.theta, local.kind) == (1e4, "default")
    assert whole is None
    assert model.rope is not None
    assert (model.rope.theta, model.rope.kind) == (1e6, "linear")


def test_gemma_2_sees_a_window_in_every_other_layer() -> None:
    assert windows(read("gemma2", head_dim=8, sliding_window=16)) == [16, None, 16, None]


def test_a_window_of_zero_is_none() -> None:
    model = read("qwen2_moe", **EXPERTS, shared_expert_intermediate_size=8, sliding_window=0)
    assert windows(model) == [None] * 4


def test_gemma_ties_its_head_unless_the_config_says_otherwise() -> None:
    assert read("gemma", head_dim=8).tied
    assert not read("gemma", head_dim=8, tie_word_embeddings=False).tied


@pytest.mark.parametrize("head", ["embed_out.weight", "lm_head.weight"])
def test_a_gpt_neox_head_is_found_under_both_names(head: str) -> None:
    found = architecture({"model_type": "gpt_neox", **SHAPE}, "config.json", [f"{head}.codes"])
    assert found.lm_head == head


def test_an_opt_without_the_usual_prefix_is_recognised() -> None:
    config = {"model_type": "opt", **SHAPE, "ffn_dim": 48}
    names = ["decoder.embed_tokens.weight"]
    assert architecture(config, "config.json", names).embedding == "decoder.embed_tokens.weight"
    assert architecture(config, "config.json").embedding == "model.decoder.embed_tokens.weight"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "phi", "tie_word_embeddings": True}, "tie_word_embeddings: True is not supported"),
        ({"model_type": "phi", "partial_rotary_factor": 0.1}, "rotates 0.1 of each head's 8 features"),
        ({"model_type": "phi", "num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide"),
        ({"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2.0}}, "not supported"),
        ({**LONG, "rope_scaling": {"type": "longrope", "short_factor": [1]}}, "4 numbers in short_factor"),
        ({"model_type": "gpt_neox", "hidden_size": 34}, "34 is not a multiple of num_attention_heads, 4"),
        ({"model_type": "opt", "ffn_dim": 8, "layer_norm_elementwise_affine": False}, "not supported"),
        ({"model_type": "gemma", "head_dim": 8, "use_bidirectional_attention": True}, "not supported"),
        ({"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 0}, "0 is not a number above"),
        ({"model_type": "gemma3_text", "head_dim": 8}, "sliding_window is missing"),
        (
            {"model_type": "gemma3_text", "sliding_window": 4, "rope_parameters": {"rope_theta": 9}},
            "does not hold a mapping for each kind of layer",
        ),
        ({"model_type": "qwen3_moe", **EXPERTS, "num_experts_per_tok": 5}, "5 is more than the 4 experts"),
        ({"model_type": "qwen3_moe", **EXPERTS, "mlp_only_layers": 1}, "1 is not a list of layers"),
        ({"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}}, "for this family"),
    ],
)  # fmt: skip
def test_a_value_that_the_graph_cannot_compute_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(IntakeError, match=message):
        architecture({**SHAPE, **config}, "config.json")


def test_a_checkpoint_of_every_family_passes_intake(tiny_checkpoint: Any) -> None:
    from ingot.stages.load.intake import inspect_source

    facts = {family: inspect_source(tiny_checkpoint(family)) for family in FAMILIES}
    assert {family: each.model_type for family, each in facts.items()} == {each: each for each in FAMILIES}
    sizes = {family: total(tiny_checkpoint(family)) for family in FAMILIES}
    assert {family: each.parameters for family, each in facts.items()} == sizes


def total(directory: Path) -> int:
    header = (directory / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    tensors = json.loads(header[8 : 8 + length])
    return sum(math.prod(each["shape"]) for name, each in tensors.items() if name != "__metadata__")
