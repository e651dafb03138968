"""`fuse.rotate`: transformers computes the same with what it writes, in another basis; others are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import StageError
from ingot.stages.model.checkpoint import Checkpoint
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "fuse.rotate"
FAMILIES = (
    "llama", "llama-tied", "qwen2", "qwen3", "mistral", "phi3", "gemma", "mixtral", "qwen2_moe", "qwen3_moe",
)  # fmt: skip


@pytest.fixture(scope="session")
def source(tiny_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``(family) -> directory``; beside the shared ones, a Llama with biases and one of an odd width."""

    def make(family: str) -> Path:
        if family not in ("mistral", "biased", "odd"):
            found: Path = tiny_checkpoint(family)
            return found
        import shutil

        import torch
        import transformers

        directory = tmp_path_factory.mktemp(family)
        shape = json.loads((tiny_checkpoint("llama") / "config.json").read_text())
        wanted = (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
        )  # fmt: skip
        values = {key: shape[key] for key in wanted}
        torch.manual_seed(1)
        if family == "mistral":
            config: Any = transformers.MistralConfig(**values, sliding_window=7)
            model: Any = transformers.MistralForCausalLM(config)
        else:
            changed = {"attention_bias": True} if family == "biased" else {"hidden_size": 104}
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**values, **changed}))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                noise = torch.randn(weight.shape)
                weight.copy_(noise * 0.2 + ("norm" in name) if weight.ndim == 1 else noise * 0.2)
        model.save_pretrained(directory)
        for path in tiny_checkpoint("llama").glob("token*"):
            shutil.copy(path, directory / path.name)
        return directory

    return make


def logits(directory: Path) -> Any:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = torch.arange(4, 52).reshape(2, 24) * 7 % 320
    with torch.inference_mode():
        return model(ids).logits.numpy()


@pytest.mark.parametrize("family", [*FAMILIES, "biased", "odd"])
def test_transformers_gives_the_same_logits(family: str, source: Any, run_stage: Any) -> None:
    directory = source(family)
    made = run_stage(STAGE, {"model": directory})
    expected = logits(directory)
    assert np.abs(expected).max() > 0.5
    assert np.abs(logits(made.path) - expected).max() < 2e-4 * np.abs(expected).max()
    weights, before = load_file(made.path / "model.safetensors"), load_file(directory / "model.safetensors")
    name = Checkpoint.open(directory).architecture.layers[1].feed_forward_norm.weight
    assert not np.allclose(weights["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert np.unique(weights[name]).tolist() == [0.0 if family == "gemma" else 1.0]
    assert made.facts["rotation"] == ("orthogonal 13 x Hadamard 8" if family == "odd" else "Hadamard 64")


def test_a_tied_head_is_written_and_the_config_and_the_facts_say_so(source: Any, run_stage: Any) -> None:
    notes: list[str] = []
    made = run_stage(STAGE, {"model": source("llama-tied")}, notes=notes)
    config = json.loads((made.path / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert "lm_head.weight" in load_file(made.path / "model.safetensors")
    assert made.facts["tied"] is False
    assert made.facts["parameters"] == sum(
        value.size for value in load_file(made.path / "model.safetensors").values()
    )
    assert any("tied" in note for note in notes)
    assert run_stage("load", {}, model=str(made.path)).facts["parameters"] == made.facts["parameters"]


def test_an_outlying_feature_is_spread_over_all(source: Any, run_stage: Any, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import save_file

    directory = tmp_path / "outlier"
    shutil.copytree(source("llama"), directory)
    weights = load_file(directory / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 5] += 30.0
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    made = run_stage(STAGE, {"model": directory})
    before, after = (
        np.abs(load_file(path / "model.safetensors")["model.embed_tokens.weight"])
        for path in (directory, made.path)
    )
    assert before.max() / np.sqrt((before**2).mean()) > 7
    assert after.max() / np.sqrt((after**2).mean()) < 2.5
    assert np.allclose((before**2).sum(1), (after**2).sum(1), rtol=1e-5)


def test_threads_change_no_byte_and_the_values_parameter_leaves_heads_alone(
    source: Any, run_stage: Any
) -> None:
    one, many = (run_stage(STAGE, {"model": source("qwen2")}, threads=count) for count in (1, 3))
    assert one.digest == many.digest
    plain = run_stage(STAGE, {"model": source("qwen2")}, values=False)
    bias = "model.layers.0.self_attn.v_proj.bias"
    before, kept, changed = (
        load_file(path / "model.safetensors")[bias] for path in (source("qwen2"), plain.path, one.path)
    )
    assert np.array_equal(before, kept)
    assert not np.allclose(before, changed)
    assert np.abs(logits(plain.path) - logits(one.path)).max() < 1e-3


def test_half_precision_is_rounded_to_nearest_even(source: Any, run_stage: Any) -> None:
    import torch
    from safetensors.torch import load_file as load_torch

    whole = run_stage(STAGE, {"model": source("llama")})
    half = run_stage(STAGE, {"model": source("llama")}, dtype="bfloat16")
    expected, found = (load_torch(made.path / "model.safetensors") for made in (whole, half))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value.to(torch.bfloat16), found[name]), name
    assert json.loads((half.path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt2", "takes the mean away"), ("opt", "takes the mean away"), ("gpt_neox", "takes the mean away"),
        ("gemma2", "norms with gains stand behind its blocks"), ("t5", "decoders with an output head"),
        ("bert", "decoders with an output head"),
    ],
)  # fmt: skip
def test_other_networks_are_refused_with_the_reason(
    family: str, reason: str, source: Any, run_stage: Any
) -> None:
    with pytest.raises(StageError, match=reason):
        run_stage(STAGE, {"model": source(family)})


def test_it_can_be_rounded_behind(source: Any, run_stage: Any) -> None:
    made = run_stage(STAGE, {"model": source("llama-tied")})
    rounded = run_stage("quantize.rtn", {"model": made}, bits=4)
    assert rounded.facts["weights_by_width"]["int8"]["tensors"] == 2
