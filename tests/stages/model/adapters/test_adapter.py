"""An adapter directory by its headers: pairs by module, tensors stored whole, and what is no adapter."""

from __future__ import annotations

import pytest
import torch
from ingot.artifacts.errors import IntakeError
from ingot.stages.model.adapters import Adapter

Q = "model.layers.0.self_attn.q_proj"
A, B = torch.randn(4, 6), torch.randn(10, 4)
PAIR = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}


def test_pairs_are_found_by_module_with_their_sizes_and_scale(make_adapter):
    adapter = Adapter.open(make_adapter(PAIR, lora_alpha=6))
    (pair,) = adapter.pairs.values()
    assert adapter.pairs.keys() == {Q}
    assert (pair.rank, pair.in_features, pair.out_features, pair.scale) == (4, 6, 10, 1.5)
    assert (pair.magnitude, pair.bias, pair.is_embedding) == (None, None, False)


def test_embeddings_magnitudes_biases_and_whole_tensors_are_told_apart(make_adapter):
    tensors = {
        **PAIR,
        f"{Q}.lora_B.bias": torch.randn(10),
        f"{Q}.lora_magnitude_vector": torch.randn(10),
        f"{Q}.base_layer.bias": torch.randn(10),
        "model.embed_tokens.lora_embedding_A": torch.randn(4, 50),
        "model.embed_tokens.lora_embedding_B": torch.randn(6, 4),
        "model.embed_tokens.lora_magnitude_vector.weight": torch.randn(6),
        "model.embed_tokens.lora_B.bias": torch.randn(6),
        "model.embed_tokens.base_layer.weight": torch.randn(50, 6),
        "lm_head.weight": torch.randn(50, 6),
    }
    config = {"use_dora": True, "lora_bias": True, "modules_to_save": ["lm_head"], "bias": "lora_only"}
    adapter = Adapter.open(make_adapter(tensors, **config))
    assert adapter.pairs[Q].bias == f"base_model.model.{Q}.lora_B.bias"
    assert adapter.pairs[Q].magnitude == f"base_model.model.{Q}.lora_magnitude_vector"
    table = adapter.pairs["model.embed_tokens"]
    assert (table.is_embedding, table.in_features, table.out_features) == (True, 50, 6)
    assert adapter.saved == {
        f"{Q}.bias": f"base_model.model.{Q}.base_layer.bias",
        "model.embed_tokens.weight": "base_model.model.model.embed_tokens.base_layer.weight",
        "lm_head.weight": "base_model.model.lm_head.weight",
    }


@pytest.mark.parametrize(
    ("tensors", "config", "reason"),
    [
        ({f"{Q}.lora_A.weight": A}, {}, "no pair of lora_A and lora_B"),
        ({f"{Q}.lora_A.weight": A, f"{Q}.lora_embedding_B": B}, {}, "no pair"),
        ({**PAIR, f"{Q}.lora_embedding_A": A}, {}, "has its down twice"),
        ({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": torch.randn(10, 3)}, {}, "do not fit"),
        (PAIR, {"r": 8}, "its rank is 4, where r and rank_pattern give 8"),
        (PAIR, {"rank_pattern": {"q_proj": 2}}, "its rank is 4"),
        ({f"{Q}.lora_A.weight": A[..., None, None], f"{Q}.lora_B.weight": B}, {}, "not the matrices"),
        ({f"{Q}.lora_A.weight": torch.ones(4, 6, dtype=torch.int8), f"{Q}.lora_B.weight": B}, {}, "is I8"),
        (PAIR, {"use_dora": True}, "no magnitude, where use_dora is true"),
        ({**PAIR, f"{Q}.lora_magnitude_vector": torch.randn(10)}, {}, "a magnitude, where use_dora is false"),
        ({**PAIR, f"{Q}.lora_magnitude_vector": torch.randn(6)}, {"use_dora": True}, "does not fit B"),
        (PAIR, {"lora_bias": True}, "no bias, where lora_bias is true"),
        ({f"{Q}.lora_A.default.weight": A, f"{Q}.lora_B.default.weight": B}, {}, "none of a LoRA's tensors"),
        (PAIR, {"modules_to_save": ["lm_head"]}, "modules_to_save: it holds no tensors of 'lm_head'"),
        ({"lm_head.weight": B}, {}, "holds no low-rank pairs"),
        ({f"{'x.' * 200}lora_A.weight": A}, {}, "is no module's name"),
    ],
)  # fmt: skip
def test_what_is_no_whole_adapter_is_refused(make_adapter, tensors, config, reason):
    directory = make_adapter(tensors, **config)
    with pytest.raises(IntakeError, match=reason) as caught:
        Adapter.open(directory)
    assert (caught.value.where or "").startswith(str(directory))
