"""Folded scales leave a network as it is, in every family, and change every tensor that they should."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.families import Linear, Norm
from ingot.stages.model.fold import Factors, Fold, Rows, factors, folds
from numpy.testing import assert_allclose, assert_array_equal

if TYPE_CHECKING:
    from pathlib import Path

    from ingot.stages.model.families import Architecture

# Family → how many inputs can be scaled, counted by hand from the papers' figures of a layer.
COUNTS = {
    "llama": 2 * 4 + 1,  # norm to q/k/v, v to o, norm to gate/up, up to down; norm to head
    "llama-tied": 2 * 4,
    "qwen2": 2 * 4,
    "qwen3": 2 * 4,
    "gpt2": 2 * 3,  # a GELU in front of the exit
    "phi": 2 * 2 + 1,  # one norm for both blocks, GELU
    "phi3": 2 * 4 + 1,
    "gemma": 2 * 4,
    "gemma2": 2 * 4,
    "gemma3_text": 2 * 4,
    "gpt_neox": 2 * 3 + 1,
    "opt": 2 * 4,  # a ReLU commutes with positive scales
    "mixtral": 2 * (3 + 4) + 1,
    "qwen2_moe": (3 + 5 + 1) + 4 + 1,
    "qwen3_moe": 2 * (3 + 5) + 1,
    "bert": 2,  # norms behind blocks go on in the residual stream
    "roberta": 2,
    "distilbert": 2,
    "t5": 3 * 4 + 2 * 6,
    "bart": 2 + 3 * 2,
}


def random_scales(model: Architecture, seed: int = 0) -> list[tuple[Fold, Any]]:
    rng = np.random.default_rng(seed)
    return [(fold, np.exp(rng.normal(0, 0.7, fold.width)).astype(np.float32)) for fold in folds(model)]


def write_folded(directory: Path, target: Path, applied: list[tuple[Fold, Any]]) -> Path:
    from safetensors.numpy import load_file, save_file

    checkpoint = Checkpoint.open(directory)
    model = checkpoint.architecture
    turned = {linear.name for linear in model.linears if linear.stored_in_out}
    shutil.copytree(directory, target)
    tensors = load_file(target / "model.safetensors")
    for name, change in factors(applied).items():
        value = tensors[name].T if name in turned else tensors[name]
        value = change.apply(value)
        tensors[name] = np.ascontiguousarray(value.T if name in turned else value)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def outputs(directory: Path) -> Any:
    """What transformers makes of a few tokens."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    name = config.architectures[0]
    model = getattr(transformers, name).from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    ids = torch.tensor(np.random.default_rng(1).integers(4, 320, (2, 11)))
    given = {"decoder_input_ids": ids.flip(0)} if config.is_encoder_decoder else {}
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), **given)
    return (found.logits if "logits" in found else found.last_hidden_state).numpy()


@pytest.mark.parametrize("family", COUNTS)
def test_a_folded_network_is_the_same_network(family: str, tiny_checkpoint: Any, tmp_path: Path) -> None:
    directory = tiny_checkpoint(family)
    applied = random_scales(Checkpoint.open(directory).architecture)
    assert len(applied) == COUNTS[family]
    before = outputs(directory)
    after = outputs(write_folded(directory, tmp_path / "folded", applied))
    assert_allclose(after, before, atol=2e-4 * np.abs(before).max())


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "t5", "mixtral"])
def test_a_fold_without_its_source_is_another_network(
    family: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    directory = tiny_checkpoint(family)
    applied = random_scales(Checkpoint.open(directory).architecture)[:1]
    folded = write_folded(directory, tmp_path / "folded", applied)
    tensors = load_file(folded / "model.safetensors")
    name = applied[0][0].source.weight
    tensors[name] = load_file(directory / "model.safetensors")[name]
    save_file(tensors, folded / "model.safetensors", {"format": "pt"})
    before = outputs(directory)
    assert np.abs(outputs(folded) - before).max() > 0.01 * np.abs(before).max()


def test_query_heads_that_share_a_value_head_share_its_scales() -> None:
    # 4 query heads of width 2 on 2 value heads, in one map: query 8 rows, key 4, value 4.
    whole = Linear("qkv", "qkv", 16, 8)
    fold = Fold((Linear("o", "o", 8, 8),), Rows(whole, 12, 4, 4), 4, 2, 2)
    scales = np.array([2, 3, 5, 7], np.float32)
    assert_array_equal(fold.expand(scales), [2, 3, 2, 3, 5, 7, 5, 7])
    assert_array_equal(fold.gather(np.array([1, 8, 4, 2, 9, 1, 3, 3], np.float32)), [4, 8, 9, 3])
    found = factors([(fold, scales)])
    assert_allclose(found["qkv"].rows, [1] * 12 + [1 / 2, 1 / 3, 1 / 5, 1 / 7])
    assert found["qkv"].columns is None
    assert_array_equal(found["o"].columns, [2, 3, 2, 3, 5, 7, 5, 7])


def test_interleaved_values_are_every_third_block_of_rows() -> None:
    # 2 heads of width 2, for each query, key and value in turn.
    fold = Fold((Linear("o", "o", 4, 4),), Rows(Linear("qkv", "qkv", 12, 4), 4, 2, 6), 4, 2)
    found = factors([(fold, np.array([2, 4, 8, 16], np.float32))])
    assert_array_equal(found["qkv"].rows, [1, 1, 1, 1, 1 / 2, 1 / 4, 1, 1, 1, 1, 1 / 8, 1 / 16])


def test_a_norm_that_stores_what_is_above_one_is_scaled_as_a_whole() -> None:
    fold = Fold((Linear("up", "up", 1, 2),), Norm("norm"), 2, 2, offset=1.0)
    change = factors([(fold, np.array([2, 4], np.float32))])["norm"]
    # 1 + 1 becomes 2 / 2 = 1 + 0, and 1 + 0 becomes 1 / 4 = 1 - 3/4.
    assert_array_equal(change.apply(np.array([1, 0], np.float32)), [0, -0.75])


def test_rows_of_a_weight_can_be_scaled_a_block_at_a_time() -> None:
    change = Factors(np.array([1, 2, 3, 4], np.float32), np.array([10, 100], np.float32))
    weight = np.arange(8, dtype=np.float32).reshape(4, 2)
    whole = change.apply(weight)
    assert_array_equal(whole, [[0, 100], [40, 600], [120, 1500], [240, 2800]])
    assert_array_equal(change.apply(weight[1:3], slice(1, 3)), whole[1:3])


@pytest.mark.parametrize("scales", [[1, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1]])
def test_scales_that_have_no_inverse_are_refused(scales: list[float]) -> None:
    fold = Fold((Linear("up", "up", 1, 2),), Norm("norm"), 2, 2)
    with pytest.raises(ValueError, match="the scales of up are not 2 numbers above 0"):
        factors([(fold, np.array(scales, np.float32))])
