"""`quantize.awq` on checkpoints of all kinds: exact folds, no worse than clipping, repeatable, resumable."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

from ..export.oracle import OnnxModel, TorchModel, cases, largest_difference
from ..model.test_fold import outputs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STAGE = "quantize.awq"
FAMILIES = ("llama", "qwen2", "gemma", "gpt2", "opt", "gpt_neox", "t5", "bart", "bert", "mixtral")
# Random networks of every family earn channel scales where nothing else makes up for rounding.
WAYS = [(family, "nearest") for family in FAMILIES] + [(family, "gptq") for family in ("llama", "gpt2", "t5")]
PLAIN = {"bits": 3, "group_size": 32, "lm_head_bits": 16, "embedding_bits": 16}


@pytest.fixture
def uneven(tiny_checkpoint: Any, tmp_path: Path) -> Callable[[str], Path]:
    """``family -> checkpoint`` in which some channels of every norm are much stronger than others.

    Random networks have none, and trained ones do; channel scales are for them.
    """

    def make(family: str) -> Path:
        source = tmp_path / f"uneven-{family}"
        shutil.copytree(tiny_checkpoint(family), source)
        weights = load_file(source / "model.safetensors")
        rng = np.random.default_rng(0)
        for name, value in weights.items():
            if value.ndim == 1 and "norm" in name.lower().replace("ln_", "norm") and "bias" not in name:
                weights[name] = (value * np.exp(rng.normal(0, 1, value.shape))).astype(value.dtype)
        save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
        return source

    return make


def written(directory: Path) -> dict[str, Any]:
    """All tensors of a quantized checkpoint as they are computed with, float32 [out, in]."""
    opened = QuantizedCheckpoint.open(directory)
    found = {name: opened.weight(name).dequantize() for name in opened.quantized}
    return found | {name: opened.checkpoint.tensors.float32(name) for name in opened.float_names()}


def restored(source: Path, target: Path, tensors: dict[str, Any]) -> Path:
    """The checkpoint with those tensors, turned where it stores them so, in the place of its own."""
    turned = {linear.name for linear in Checkpoint.open(source).architecture.linears if linear.stored_in_out}
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    for name, value in tensors.items():
        weights[name] = np.ascontiguousarray(value.T if name in turned else value)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture
def effective(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By name, the weights that the walk went on with: those of the network before anything is folded."""
    from ingot.stages.model.blocks.tensors import BlockTensors

    found: dict[str, Any] = {}
    replace = BlockTensors.replace

    def record(self: Any, linear: Any, weight: Any) -> None:
        found[linear.name] = weight.clone().numpy()
        replace(self, linear, weight)

    monkeypatch.setattr(BlockTensors, "replace", record)
    return found


@pytest.mark.parametrize(("family", "rounding"), WAYS)
def test_what_is_written_is_the_network_of_the_walk(
    family: str, rounding: str, calibrated: Any, uneven: Any, effective: dict[str, Any], tmp_path: Path
) -> None:
    source = uneven(family)
    made = calibrated(source, STAGE, **PLAIN, rounding=rounding)
    assert made.artifact.facts["folds"] == len(made.record["transforms"]) > 0
    expected = outputs(restored(source, tmp_path / "expected", effective))
    found = outputs(restored(source, tmp_path / "found", written(made.artifact.path)))
    assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    # It is the folds that make it so: without them the norms are another network's.
    unfolded = {name: value for name, value in written(made.artifact.path).items() if name in made.tensors}
    apart = outputs(restored(source, tmp_path / "apart", unfolded))
    assert np.abs(apart - expected).max() > 0.01 * np.abs(expected).max() or family == "bert"


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_weight_loses_more_than_by_clipping_alone(
    family: str, rounding: str, calibrated: Any, uneven: Any
) -> None:
    found = calibrated(uneven(family), STAGE, **PLAIN, rounding=rounding)
    source = Checkpoint.open(found.artifact.path)
    names = [linear.name for linear in source.architecture.linears if linear.layer is not None]
    assert sorted(found.tensors) == sorted(names)
    for name, entry in found.tensors.items():
        assert entry["weighted_error"] <= entry["rtn_weighted_error"] * (1 + 1e-6), name
        assert entry["method"] == ("rtn" if entry["fallback"] else "awq")
        assert entry["rounding"] in ("nearest", rounding)
        assert (entry["alpha"] is None) == (entry["unscaled"] is not None)
    scaled = [entry for entry in found.tensors.values() if entry["alpha"] is not None]
    if (family, rounding) == ("bert", "gptq"):  # columns that pay for one another leave scales nothing to win
        assert not scaled
        return
    assert (
        0
        < sum(entry["weighted_error"] for entry in scaled)
        < sum(entry["rtn_weighted_error"] for entry in scaled)
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "mixtral"])
def test_the_network_computes_more_nearly_what_it_did_than_after_plain_rounding(
    family: str, calibrated: Any, output_error: Any, uneven: Any, effective: dict[str, Any]
) -> None:
    source = uneven(family)
    calibrated(source, STAGE, **PLAIN)
    plain = calibrated(source, "quantize.rtn", **PLAIN, scale_search="minmax")
    assert output_error(source, effective) < 0.95 * output_error(source, plain)


def test_a_graph_computes_with_what_was_folded(
    calibrated: Any, uneven: Any, run_stage: Any, tmp_path: Path
) -> None:
    source = uneven("llama")
    made = calibrated(source, STAGE, **PLAIN)
    exported = run_stage("export.onnx", {"model": made.artifact}, accuracy_level=0)
    reference = TorchModel(
        restored(source, tmp_path / "restored", written(made.artifact.path)), "LlamaForCausalLM"
    )
    case = cases(320)["decoding with a past"]
    assert largest_difference(OnnxModel(exported.path), reference, case) <= 1e-3


def test_ignored_weights_stay_bit_equal_and_keep_others_from_being_scaled(
    calibrated: Any, uneven: Any
) -> None:
    source = uneven("llama")
    found = calibrated(source, STAGE, **PLAIN, ignore=["*.k_proj.weight", "*.up_proj.weight"])
    before, after = (load_file(path / "model.safetensors") for path in (source, found.artifact.path))
    norms = {
        f"model.layers.{layer}.{part}_layernorm.weight"
        for layer in (0, 1)
        for part in ("input", "post_attention")
    }
    kept = set(before) & set(after)
    assert {"lm_head.weight", "model.layers.0.self_attn.k_proj.weight", *norms} <= kept
    assert all(np.array_equal(before[name], after[name]) for name in kept)
    layer = "model.layers.0.{}.weight".format
    for name in ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"):
        assert "not quantized" in found.tensors[layer(name)]["unscaled"]
    assert {tuple(each["readers"]) for each in found.record["transforms"]} <= {
        (f"model.layers.{number}.self_attn.o_proj.weight",) for number in (0, 1)
    }


def test_entries_of_experts_are_not_scaled_since_their_router_stays(calibrated: Any, uneven: Any) -> None:
    source = uneven("mixtral")
    found = calibrated(source, STAGE, **PLAIN)
    before, after = (load_file(path / "model.safetensors") for path in (source, found.artifact.path))
    routers = [name for name in before if "gate" in name]
    assert len(routers) == 2
    assert all(np.array_equal(before[name], after[name]) for name in routers)
    reasons = {name: entry["unscaled"] for name, entry in found.tensors.items()}
    assert all(
        "not quantized" in why for name, why in reasons.items() if name.endswith((".w1.weight", ".w3.weight"))
    )
    assert any(why is None for name, why in reasons.items() if name.endswith(".w2.weight"))


def test_threads_and_spilling_change_no_byte(calibrated: Any) -> None:
    digests = {
        calibrated("mixtral", STAGE, **PLAIN, threads=threads, activation_budget_mb=budget).artifact.digest
        for threads, budget in ((1, 1024), (3, 1024), (2, 0))
    }
    assert len(digests) == 1


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_run_goes_on_at_its_block_and_gives_the_same_bytes(
    calibrated: Any, uneven: Any, tmp_path: Path
) -> None:
    source = uneven("llama")
    whole = calibrated(source, STAGE, **PLAIN)

    def die(_done: int, _total: int, what: str) -> None:
        if what == "layers.1":
            raise Killed

    with pytest.raises(Killed):
        calibrated(source, STAGE, tmp_path / "job", progress=die, **PLAIN)
    seen: list[str] = []
    again = calibrated(
        source, STAGE, tmp_path / "job", progress=lambda d, t, what: seen.append(what), **PLAIN
    )
    assert "layers.0" not in seen
    assert again.artifact.digest == whole.artifact.digest
    assert again.record == whole.record


def test_an_output_head_of_few_bits_is_scaled_with_the_last_norm(calibrated: Any, uneven: Any) -> None:
    found = calibrated(uneven("llama"), STAGE, **{**PLAIN, "lm_head_bits": 4})
    assert found.tensors["lm_head.weight"]["method"] == "awq"
    assert {
        "transform": "channel_scales", "source": "model.norm.weight", "readers": ["lm_head.weight"],
    }.items() <= found.record["transforms"][-1].items()  # fmt: skip
    beside = calibrated("llama", STAGE, **{**PLAIN, "lm_head_bits": 8})
    assert "method" not in beside.tensors["lm_head.weight"]
    assert all("lm_head.weight" not in each["readers"] for each in beside.record["transforms"])


def test_an_expert_that_too_few_tokens_chose_is_rounded_to_nearest_and_noted(
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
    assert all(found.tensors[name]["method"] == "rtn" for name in lone)
    assert found.artifact.facts["fallbacks"] >= len(lone)
    assert any("no token of the calibration text came to them" in note for note in found.notes)


def test_columns_that_pay_for_one_another_take_most_off_what_nearest_codes_lose(
    calibrated: Any, uneven: Any
) -> None:
    source = uneven("llama")
    kinds = {"gptq": {}, "fitted": {"rounding": "nearest"}}
    kinds["nearest"] = {"rounding": "nearest", "refit_scales": False}
    found = {name: calibrated(source, STAGE, **PLAIN, **params).tensors for name, params in kinds.items()}
    first = [name for name in found["gptq"] if ".0.self_attn." in name and "o_proj" not in name]
    lost = {kind: sum(found[kind][name]["weighted_error"] ** 2 for name in first) for kind in kinds}
    assert lost["gptq"] < 0.9 * lost["nearest"]
    assert lost["fitted"] < lost["nearest"]
    assert {found["gptq"][name]["rounding"] for name in first} == {"gptq"}


@pytest.mark.parametrize("params", [{"sym": False}, {"scale_search": "minmax"}, {"duo_scaling": False}])
def test_every_kind_of_search_is_no_worse_than_without_scales(
    params: dict[str, object], calibrated: Any, uneven: Any
) -> None:
    found = calibrated(uneven("llama"), STAGE, **PLAIN, **params)
    entries = [entry for entry in found.tensors.values() if entry["alpha"] is not None]
    assert len(entries) > 0
    assert all(entry["weighted_error"] <= entry["rtn_weighted_error"] * (1 + 1e-6) for entry in entries)


def test_what_is_observed_is_json(calibrated: Any) -> None:
    json.dumps(calibrated("mixtral", STAGE, **PLAIN).observed, allow_nan=False)
