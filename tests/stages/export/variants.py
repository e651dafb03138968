"""Decoders beyond the first families, and variants of them that their tiny checkpoints do not show."""

from __future__ import annotations

from typing import Any

MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
DECODERS = ("phi", "phi3", "gemma", "gemma2", "gemma3_text", "gpt_neox", "opt", *MIXTURES)

SHAPE = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 2}
OPT = {
    "vocab_size": 320, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
# The switch to the factors for long contexts is within the reach of a short text: 33 tokens or more.
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1000.0, "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0], "original_max_position_embeddings": 32,
}  # fmt: skip
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}

# Class, config class, values.
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "phi with norms of each head's query and key": (
        "PhiForCausalLM", "PhiConfig", {**GROUPED, "qk_layernorm": True},
    ),
    "phi3 with a window and a tied head": (
        "Phi3ForCausalLM", "Phi3Config", {**GROUPED, "sliding_window": 7, "tie_word_embeddings": True},
    ),
    "phi3 that rotates half of each head, with factors for long contexts": (
        "Phi3ForCausalLM", "Phi3Config",
        {**GROUPED, "rope_parameters": LONGROPE, "original_max_position_embeddings": 32},
    ),
    "gemma with biases and the old name of its activation": (
        "GemmaForCausalLM", "GemmaConfig",
        {**GROUPED, "head_dim": 8, "attention_bias": True, "hidden_act": "gelu"},
    ),
    "gemma2 without caps and with a head of its own": (
        "Gemma2ForCausalLM", "Gemma2Config",
        {
            **GROUPED, "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": None,
            "final_logit_softcapping": None, "tie_word_embeddings": False,
        },
    ),
    "gemma3 with scaled frequencies and capped logits": (
        "Gemma3ForCausalLM", "Gemma3TextConfig",
        {
            **GROUPED, "num_hidden_layers": 3, "head_dim": 8, "sliding_window": 5,
            "sliding_window_pattern": 2, "rope_parameters": GEMMA3_ROPE, "final_logit_softcapping": 2.0,
        },
    ),
    "gpt-neox whose blocks follow each other, without biases around attention": (
        "GPTNeoXForCausalLM", "GPTNeoXConfig",
        {**SHAPE, "use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"},
    ),
    "gpt-neox that rotates whole heads, with linear frequencies and a tied head": (
        "GPTNeoXForCausalLM", "GPTNeoXConfig",
        {
            **SHAPE, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 1.0,
            },
        },
    ),
    "opt with norms behind its blocks and narrow embeddings": (
        "OPTForCausalLM", "OPTConfig", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
    ),
    "opt without biases and with a head of its own": (
        "OPTForCausalLM", "OPTConfig",
        {**OPT, "enable_bias": False, "tie_word_embeddings": False, "activation_function": "gelu"},
    ),
    "mixtral with a window and one expert a token": (
        "MixtralForCausalLM", "MixtralConfig",
        {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 6},
    ),
    "qwen2-moe with normalized weights and windows": (
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig",
        {
            **EXPERTS, "shared_expert_intermediate_size": 16, "norm_topk_prob": True,
            "use_sliding_window": True, "sliding_window": 5,
        },
    ),
    "qwen3-moe with experts in every other layer, all of them chosen": (
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
        {**EXPERTS, "head_dim": 8, "decoder_sparse_step": 2, "num_experts_per_tok": 4},
    ),
}  # fmt: skip
