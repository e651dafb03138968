"""`quantize.gptq` on checkpoints of all kinds: better than plain rounding, repeatable, resumable, clear."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import DataError, RecipeError, StageError
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "quantize.gptq"
FAMILIES = ("llama", "qwen2", "gpt2", "opt", "gpt_neox", "t5", "bart", "bert", "mixtral")
PLAIN = {"bits": 3, "group_size": 32, "lm_head_bits": 16, "embedding_bits": 16}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_loses_less_than_by_plain_rounding(family: str, calibrated: Any) -> None:
    found = calibrated(family, STAGE, **PLAIN)
    source = Checkpoint.open(found.artifact.path)
    names = [linear.name for linear in source.architecture.linears if linear.layer is not None]
    assert sorted(found.tensors) == sorted(names)
    for name, entry in found.tensors.items():
        assert entry["weighted_error"] <= entry["rtn_weighted_error"] * (1 + 1e-6), name
        assert entry["method"] == ("rtn" if entry["fallback"] else "gptq")
    total = sum(entry["weighted_error"] for entry in found.tensors.values())
    assert total < 0.9 * sum(entry["rtn_weighted_error"] for entry in found.tensors.values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "mixtral"])
def test_the_network_computes_more_nearly_what_it_did_than_after_plain_rounding(
    family: str, calibrated: Any, output_error: Any
) -> None:
    gptq = output_error(family, calibrated(family, STAGE, **PLAIN))
    assert gptq < 0.9 * output_error(family, calibrated(family, "quantize.rtn", **PLAIN))


def test_correcting_for_earlier_errors_brings_the_outputs_nearer(calibrated: Any, output_error: Any) -> None:
    plain, corrected = (
        output_error("llama", calibrated("llama", STAGE, **PLAIN, error_correction=on))
        for on in (False, True)
    )
    assert corrected < plain


@pytest.mark.parametrize("correction", [False, True])
def test_threads_and_spilling_change_no_byte(correction: bool, calibrated: Any) -> None:
    digests = {
        calibrated(
            "mixtral",
            STAGE,
            **PLAIN,
            threads=threads,
            activation_budget_mb=budget,
            error_correction=correction,
        ).artifact.digest
        for threads, budget in ((1, 1024), (3, 1024), (2, 0))
    }
    assert len(digests) == 1


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("correction", [False, True])
def test_a_killed_run_goes_on_at_its_block_and_gives_the_same_bytes(
    correction: bool, calibrated: Any, tmp_path: Path
) -> None:
    whole = calibrated("llama", STAGE, **PLAIN, error_correction=correction)

    def die(_done: int, _total: int, what: str) -> None:
        if what == "layers.1":
            raise Killed

    with pytest.raises(Killed):
        calibrated("llama", STAGE, tmp_path / "job", progress=die, **PLAIN, error_correction=correction)
    seen: list[str] = []
    again = calibrated(
        "llama", STAGE, tmp_path / "job", progress=lambda d, t, what: seen.append(what), **PLAIN,
        error_correction=correction,
    )  # fmt: skip
    assert "layers.0" not in seen
    assert again.artifact.digest == whole.artifact.digest
    assert again.tensors.keys() == whole.tensors.keys()


def test_what_is_ignored_or_in_floating_point_stays_bit_equal(calibrated: Any, tiny_checkpoint: Any) -> None:
    found = calibrated("llama", STAGE, **PLAIN, ignore=["*.down_proj.weight"])
    source = load_file(tiny_checkpoint("llama") / "model.safetensors")
    made = load_file(found.artifact.path / "model.safetensors")
    kept = set(source) & set(made)
    assert {"lm_head.weight", "model.norm.weight", "model.layers.0.mlp.down_proj.weight"} <= kept
    assert all(np.array_equal(source[name], made[name]) for name in kept)
    assert len(source) - len(kept) == len(found.tensors)


def test_codes_scales_and_zeros_are_in_range_and_conv1d_is_turned(calibrated: Any) -> None:
    found = calibrated("gpt2", STAGE, **PLAIN, sym=False)
    opened = QuantizedCheckpoint.open(found.artifact.path)
    for name, spec in opened.quantized.items():
        weight = opened.weight(name)
        assert weight.codes.shape == spec.shape
        assert weight.codes.max() <= 7
        assert np.isfinite(weight.scales).all()
        assert (weight.scales > 0).all()
    assert opened.quantized["transformer.h.0.mlp.c_fc.weight"].shape == (256, 64)


def test_patterns_override_formats_and_weights_of_one_input_may_differ(calibrated: Any) -> None:
    overrides = {"*.v_proj.weight": {"bits": 8, "group_size": 0}, "*.0.mlp.up_proj.weight": {"bits": 16}}
    found = calibrated("llama", STAGE, **PLAIN, overrides=overrides)
    layer = "model.layers.{}.{}.weight".format
    assert found.tensors[layer(1, "self_attn.v_proj")]["bits"] == 8
    assert found.tensors[layer(1, "self_attn.q_proj")]["bits"] == 3
    assert layer(0, "mlp.up_proj") not in found.tensors
    assert layer(1, "mlp.up_proj") in found.tensors
    opened = QuantizedCheckpoint.open(found.artifact.path)
    assert opened.weight(layer(0, "self_attn.v_proj")).scales.shape == (32, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"*.nothing": {"bits": 4}}, "'\\*.nothing' matches no weight"),
        ({"*.q_proj.weight": {"bit": 4}}, "did you mean bits"),
        ({"*.q_proj.weight": {"bits": 5}}, "5 is not one of 2, 3, 4, 8, 16"),
        ({"*.q_proj.weight": {"sym": 1}}, "1 is not one of True, False"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(overrides: Any, message: str, calibrated: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        calibrated("llama", STAGE, **PLAIN, overrides=overrides)


def test_an_output_head_of_few_bits_is_calibrated_too(calibrated: Any) -> None:
    found = calibrated("llama", STAGE, **{**PLAIN, "lm_head_bits": 4})
    assert found.tensors["lm_head.weight"]["method"] == "gptq"
    beside = calibrated("llama", STAGE, **{**PLAIN, "lm_head_bits": 8})
    assert "method" not in beside.tensors["lm_head.weight"]


def test_an_expert_that_no_token_chose_is_rounded_to_nearest_and_noted(
    calibrated: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint("mixtral"), source)
    weights = load_file(source / "model.safetensors")
    router = "model.layers.0.block_sparse_moe.gate.weight"
    weights[router] = np.zeros_like(weights[router])
    # Where all logits are equal, the first two experts of four are chosen for every token.
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    found = calibrated(source, STAGE, **PLAIN)
    lone = [name for name, entry in found.tensors.items() if "no token" in (entry["fallback"] or "")]
    assert len(lone) == 2 * 3
    assert found.artifact.facts["fallbacks"] >= len(lone)
    assert any("no token of the calibration text came to them" in note for note in found.notes)


def test_a_text_that_is_short_of_windows_is_noted_and_one_of_none_refused(
    calibrated: Any, tmp_path: Path
) -> None:
    found = calibrated("llama", STAGE, **PLAIN, samples=5000)
    assert any("fewer than the 5000 asked for" in note for note in found.notes)
    empty = tmp_path / "short.txt"
    empty.write_text("The river.")
    with pytest.raises(DataError, match="fewer than one window"):
        calibrated("llama", STAGE, **PLAIN, calibration=str(empty))


def test_activations_that_overflow_are_named_with_their_layer(
    calibrated: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint("llama"), source)
    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= np.float32(3e38)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"layers\.1: the input of model\.layers\.1\.mlp\.down_proj"):
        calibrated(source, STAGE, **PLAIN)


def test_half_precision_products_give_nearly_the_same_network(calibrated: Any, output_error: Any) -> None:
    single, half = (
        output_error("llama", calibrated("llama", STAGE, **PLAIN, compute_dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    assert half == pytest.approx(single, rel=0.1)


def test_what_is_observed_is_json(calibrated: Any) -> None:
    json.dumps(calibrated("llama", STAGE, **PLAIN).observed, allow_nan=False)
