"""adapter_config.json: what changes the arithmetic is honoured or refused by its key."""

from __future__ import annotations

import math

import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.model.adapters.config import matches, read_config

WHERE = "adapter_config.json"


def read(**config: object):
    return read_config({"peft_type": "LORA", **config}, WHERE)


def test_the_scale_is_alpha_over_rank_and_over_its_root_where_it_is_stabilized():
    # LoRA, section 4.1: α/r.  rsLoRA, theorem 3.2: α/√r.
    assert read(r=16, lora_alpha=32).scale_of("model.q_proj", 16) == 2.0
    assert read(r=16, lora_alpha=32, use_rslora=True).scale_of("model.q_proj", 16) == 8.0


def test_what_the_config_leaves_out_is_what_peft_takes():
    config = read()
    assert (config.rank, config.alpha) == (8, 8.0)
    assert config.scale_of("any", 8) == 1.0


def test_patterns_name_modules_by_their_ends_and_the_first_that_matches_holds():
    config = read(
        r=8,
        lora_alpha=16,
        rank_pattern={"layers.1.self_attn.q_proj": 2, "q_proj": 4},
        alpha_pattern={r"layers\.\d+\.mlp\.(up|down)_proj": 5, "q_proj": 32},
        use_rslora=True,
    )
    assert config.rank_of("model.layers.1.self_attn.q_proj") == 2
    assert config.rank_of("model.layers.0.self_attn.q_proj") == 4
    assert config.rank_of("model.layers.0.self_attn.my_q_proj") == 8
    assert config.scale_of("model.layers.7.mlp.down_proj", 8) == pytest.approx(5 / math.sqrt(8))
    assert config.scale_of("model.layers.7.self_attn.q_proj", 2) == pytest.approx(32 / math.sqrt(2))
    assert matches("^model.layers.1.k_proj", "model.layers.1.k_proj")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_replication", [[0, 4]]), ("megatron_config", {"a": 1}), ("use_qalora", True),
        ("alora_invocation_tokens", [1, 2]), ("trainable_token_indices", [3]),
        ("target_parameters", ["experts.gate_up_proj"]), ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 3}), ("kasa_config", {"beta": 1}), ("monteclora_config", {"a": 1}),
        ("velora_config", {"num_groups": 2}), ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "loftq"), ("init_lora_weights", "olora"), ("a_key_of_next_year", True),
        ("bias", "some"), ("r", 0), ("r", "4"), ("lora_alpha", "8"), ("lora_alpha", -1), ("use_dora", 1),
        ("use_rslora", "yes"), ("fan_in_fan_out", "no"), ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": 0}), ("rank_pattern", {"q_proj": True}), ("alpha_pattern", {"q": "1"}),
        ("target_modules", [1]), ("modules_to_save", "lm_head"), ("layers_to_transform", ["1"]),
        ("layers_to_transform", [-1]), ("peft_type", "LOHA"), ("peft_type", None),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_an_error_that_names_its_key(key, value):
    with pytest.raises(IntakeError, match=f"^{key}: ") as caught:
        read(**{key: value})
    assert caught.value.where == WHERE
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("pattern", ["(a+)+b", "((a|a)*)*", ".*.*.*x", "a" * 500, "[z-a]", "(", "q{1,9}"])
def test_a_pattern_that_could_run_for_long_or_is_none_is_refused(pattern):
    for key in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(IntakeError, match=key):
            read(**{key: {pattern: 4}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a_key_of_next_year", None), ("a_key_of_next_year", False), ("lora_dropout", 0.1),
        ("eva_config", {"rho": 2.0}), ("init_lora_weights", "gaussian"), ("init_lora_weights", False),
        ("layers_to_transform", 3),
    ],
)  # fmt: skip
def test_what_changes_nothing_passes(key, value):
    assert read(**{key: value}).rank == 8
