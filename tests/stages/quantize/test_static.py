"""`quantize.static` on checkpoints grids that fit inputs, remedies that are said, equal bytes."""

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

STAGE = "quantize.static"
FAMILIES = ("llama", "gpt2", "opt", "gpt_neox", "phi", "bert", "t5", "bart", "mixtral")
KEPT = {"fallback": "static"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_map_gets_the_grid_of_its_input(family: str, calibrated: Any) -> None:
    found = calibrated(family, STAGE, **KEPT)
    opened = QuantizedCheckpoint.open(found.artifact.path)
    model = opened.checkpoint.architecture
    for linear in model.linears:
        spec, entry = opened.quantized[linear.name], found.tensors[linear.name]
        assert spec.format.activation == "static"
        assert (spec.input.scale, spec.input.zero) == (entry["grid"]["scale"], entry["grid"]["zero"])
        low, high = entry["range"]
        # Squared errors clip the ends, never the middle, and no grid spans more than there is.
        assert 0 < spec.input.scale * 255 <= 1.001 * (max(high, 0) - min(low, 0))
        assert entry["output_error_weights"] < entry["output_error"] < 0.2
        assert entry["tokens"] > 0
        assert entry["relative_error"] < 0.02
    for layer in model.layers:
        if len(layer.attention.inputs) == 3:
            assert len({opened.quantized[linear.name].input for linear in layer.attention.inputs}) == 1


@pytest.mark.parametrize("sym", [True, False])
def test_a_grid_spans_what_transformers_sees(
    sym: bool, calibrated: Any, tiny_checkpoint: Any, calibration: Path
) -> None:
    import torch
    import transformers
    from ingot.stages.model.calibration.samples import take

    directory = tiny_checkpoint("llama")
    found = calibrated("llama", STAGE, observer="minmax", activation_sym=sym, **KEPT)
    model = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    seen: dict[str, list[float]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):

            def note(_module: Any, given: Any, name: str = name) -> None:
                seen.setdefault(f"{name}.weight", []).extend((given[0].min().item(), given[0].max().item()))

            module.register_forward_pre_hook(note)
    batches = take(calibration, directory, Checkpoint.open(directory).architecture, 64, 16).batches
    with torch.no_grad():
        for batch in batches:
            model(batch.ids)
    assert len(seen) == 15
    for name, ends in seen.items():
        low, high = min(0.0, *ends), max(0.0, *ends)
        grid = found.tensors[name]["grid"]
        scale = max(-low, high) / 127 if sym else (high - low) / 255
        assert grid["scale"] == pytest.approx(scale, rel=1e-4)
        assert abs(grid["zero"] - (128 if sym else -low / scale)) <= 0.51


def test_the_best_observer_is_the_one_that_loses_least(calibrated: Any) -> None:
    each = {
        observer: calibrated("gpt2", STAGE, observer=observer, **KEPT).tensors
        for observer in ("minmax", "percentile", "entropy", "mse", "best")
    }
    best = each.pop("best")
    for name, entry in best.items():
        if "output_error" in entry:
            errors = {observer: tensors[name]["output_error"] for observer, tensors in each.items()}
            assert entry["output_error"] == min(errors.values())
            assert errors[entry["observer"]] == entry["output_error"]


@pytest.mark.parametrize("instead", ["dynamic", "none"])
def test_inputs_whose_grid_loses_too_much_keep_none_and_that_is_said(instead: str, calibrated: Any) -> None:
    every = calibrated("llama", STAGE, **KEPT).tensors
    errors = sorted({entry["output_error"] for entry in every.values() if "output_error" in entry})
    limit = (errors[-1] + errors[-2]) / 2
    found = calibrated("llama", STAGE, max_output_error=limit, fallback=instead)
    opened = QuantizedCheckpoint.open(found.artifact.path)
    lost = [name for name, entry in found.tensors.items() if entry.get("fallback")]
    assert lost
    for name, entry in found.tensors.items():
        if "output_error" in entry:
            spec = opened.quantized[name]
            assert spec.format.activation == (instead if entry["output_error"] > limit else "static")
            assert (spec.input is None) == (name in lost)
    assert found.artifact.facts["fallbacks"] == len(lost)
    (note,) = found.notes
    assert f"{lost[0]}" in note
    assert f"are {instead}: a grid loses" in note


def test_the_head_that_is_the_embedding_stays_dynamic(calibrated: Any) -> None:
    found = calibrated("llama-tied", STAGE, **KEPT)
    opened = QuantizedCheckpoint.open(found.artifact.path)
    assert opened.quantized["model.embed_tokens.weight"].format.activation == "dynamic"
    assert found.notes == ("the head is the embedding, so its activations are scaled for each token",)


def test_an_expert_that_no_token_chose_stays_dynamic(
    calibrated: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint("mixtral"), source)
    weights = load_file(source / "model.safetensors")
    router = "model.layers.0.block_sparse_moe.gate.weight"
    weights[router] = np.zeros_like(weights[router])
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    found = calibrated(source, STAGE)
    lone = {name for name, entry in found.tensors.items() if "tokens of" in (entry.get("fallback") or "")}
    # Two of four experts win every tie, and each has three maps.
    assert len([name for name in lone if name.startswith("model.layers.0.")]) == 2 * 3
    opened = QuantizedCheckpoint.open(found.artifact.path)
    assert {opened.quantized[name].format.activation for name in lone} == {"dynamic"}
    assert any("0 tokens of the calibration text" in note for note in found.notes)


def test_patterns_choose_activations_and_observers(calibrated: Any) -> None:
    overrides = {
        "*.mlp.*": {"observer": "minmax"},
        "*.down_proj.weight": {"activation": "dynamic"},
        "*.0.self_attn.v_proj.weight": {"activation": "none"},
    }
    found = calibrated("llama", STAGE, overrides=overrides, ignore=["*.1.self_attn.o_proj.weight"], **KEPT)
    opened = QuantizedCheckpoint.open(found.artifact.path)
    layer = "model.layers.{}.{}.weight".format
    assert opened.quantized[layer(1, "mlp.down_proj")].format.activation == "dynamic"
    assert opened.quantized[layer(0, "self_attn.v_proj")].format.activation == "none"
    assert opened.quantized[layer(0, "self_attn.q_proj")].format.activation == "static"
    assert layer(1, "self_attn.o_proj") not in opened.quantized
    assert found.tensors[layer(0, "mlp.up_proj")]["observer"] == "minmax"
    assert found.tensors[layer(0, "self_attn.q_proj")]["observer"] == "mse"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"*.nothing": {"activation": "dynamic"}}, "'\\*.nothing' matches no weight"),
        ({"*.q_proj.weight": {"activations": "dynamic"}}, "did you mean activation"),
        ({"*.q_proj.weight": {"activation": "fp8"}}, "'fp8' is not one of static, dynamic, none"),
        ({"*.q_proj.weight": {"observer": "max"}}, "'max' is not one of minmax"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(overrides: Any, message: str, calibrated: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        calibrated("llama", STAGE, overrides=overrides)


def test_threads_and_spilling_change_no_byte(calibrated: Any) -> None:
    digests = {
        calibrated("mixtral", STAGE, threads=threads, activation_budget_mb=budget).artifact.digest
        for threads, budget in ((1, 1024), (3, 0))
    }
    assert len(digests) == 1


def test_a_killed_run_goes_on_at_its_block_and_gives_the_same_bytes(calibrated: Any, tmp_path: Path) -> None:
    class Killed(Exception):
        """Stands for the end of the process."""

    def die(_done: int, _total: int, what: str) -> None:
        if what == "layers.1":
            raise Killed

    with pytest.raises(Killed):
        calibrated("llama", STAGE, tmp_path / "job", progress=die)
    seen: list[str] = []
    again = calibrated("llama", STAGE, tmp_path / "job", progress=lambda d, t, what: seen.append(what))
    assert "layers.0" not in seen
    assert again.artifact.digest == calibrated("llama", STAGE).artifact.digest


def test_what_is_ignored_or_in_floating_point_stays_bit_equal(calibrated: Any, tiny_checkpoint: Any) -> None:
    found = calibrated("llama", STAGE, ignore=["*.down_proj.weight"], lm_head_bits=16, embedding_bits=16)
    source = load_file(tiny_checkpoint("llama") / "model.safetensors")
    made = load_file(found.artifact.path / "model.safetensors")
    kept = set(source) & set(made)
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= kept
    assert all(np.array_equal(source[name], made[name]) for name in kept)
    assert len(source) - len(kept) == 12


def test_bad_text_and_activations_that_overflow_are_refused(
    calibrated: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    empty = tmp_path / "short.txt"
    empty.write_text("The river.")
    with pytest.raises(DataError, match="fewer than one window"):
        calibrated("llama", STAGE, calibration=str(empty))
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint("llama"), source)
    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= np.float32(3e38)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"layers\.1: the input of model\.layers\.1\.mlp\.down_proj"):
        calibrated(source, STAGE)


def test_half_precision_products_give_nearly_the_same_grids(calibrated: Any) -> None:
    single, half = (
        calibrated("llama", STAGE, observer="minmax", compute_dtype=dtype, **KEPT).tensors
        for dtype in ("float32", "bfloat16")
    )
    for name, entry in single.items():
        if "grid" in entry:
            assert half[name]["grid"]["scale"] == pytest.approx(entry["grid"]["scale"], rel=0.05)


def test_what_is_observed_is_json(calibrated: Any) -> None:
    json.dumps(calibrated("llama", STAGE).observed, allow_nan=False)
