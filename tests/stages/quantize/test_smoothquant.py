"""`quantize.smoothquant`: the paper's scales, a network that stays what it was, outliers that do no harm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.fold import folds
from ingot.stages.model.quantized import QuantizedCheckpoint
from ingot.stages.quantize.smooth_visitor import migration
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

from ..model.test_fold import outputs, write_folded

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "quantize.smoothquant"
FAMILIES = ("llama", "qwen3", "gpt2", "opt", "gemma", "gpt_neox", "bert", "t5", "bart", "mixtral")


def dense(quantized: Path, target: Path) -> Path:
    """The quantized form as an ordinary checkpoint of the weights that its codes stand for."""
    import shutil

    opened = QuantizedCheckpoint.open(quantized)
    target.mkdir()
    tensors = {name: opened.checkpoint.tensors.float32(name) for name in opened.float_names()}
    for name, spec in opened.quantized.items():
        weight = opened.weight(name).dequantize()
        tensors[name] = np.ascontiguousarray(weight.T if spec.stored_in_out else weight)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    for path in opened.checkpoint.sidecars():
        shutil.copy(path, target)
    return target


def with_outliers(directory: Path, target: Path) -> Path:
    """The same network, a few channels of whose inputs are fifty times as large."""
    applied = []
    for fold in folds(Checkpoint.open(directory).architecture):
        scales = np.ones(fold.width, np.float32)
        scales[:: fold.width // 3] = 1 / 50
        applied.append((fold, scales))
    return write_folded(directory, target, applied)


def worst(found: Any, key: str = "output_error") -> float:
    return max(entry[key] for entry in found.tensors.values() if key in entry)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smoothed_network_computes_what_it_did(
    family: str, calibrated: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    found = calibrated(family, STAGE, embedding_bits=16, alpha=0.7)
    record = json.loads((found.artifact.path / "quantization.json").read_text())
    assert {each["transform"] for each in record["transforms"]} <= {"channel_scales", "none"}
    assert any(each["transform"] == "channel_scales" for each in record["transforms"])
    before = outputs(tiny_checkpoint(family))
    after = outputs(dense(found.artifact.path, tmp_path / "dense"))
    # Int8 weights alone: a percent or so; a fold without its inverse changes everything.
    assert np.linalg.norm(after - before) <= 0.06 * np.linalg.norm(before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mixtral"])
def test_outliers_that_ruin_a_grid_do_no_harm_once_they_are_smoothed(
    family: str, calibrated: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    source = with_outliers(tiny_checkpoint(family), tmp_path / "outliers")
    kept = {"fallback": "static", "activation_sym": True}
    plain = calibrated(source, "quantize.static", **kept)
    smooth = calibrated(source, STAGE, activation="static", **kept)
    for name, entry in smooth.tensors.items():
        if "output_error" in entry:
            assert entry["output_error"] <= 1.1 * plain.tensors[name]["output_error"]
    better = [
        plain.tensors[name]["output_error"] / entry["output_error"]
        for name, entry in smooth.tensors.items()
        if "output_error" in entry
    ]
    assert np.median(better) > 1.5
    assert max(better) > 3


def test_the_scales_are_the_papers() -> None:
    # α = 1/2: √(8/2) = 2 and √(2/2) = 1, over their geometric mean √2; channels of zeros stay.
    inputs, weights = np.array([8, 2, 0, 3], np.float32), np.array([2, 2, 5, 0], np.float32)
    assert_allclose(migration(inputs, weights, 0.5), [2**0.5, 0.5**0.5, 1, 1], rtol=1e-6)
    # α = 1 makes all inputs equally large, α = 0 all weights.
    assert_allclose(inputs[:2] / migration(inputs, weights, 1.0)[:2], [4, 4], rtol=1e-6)
    even = migration(inputs[:2], np.array([8, 1], np.float32), 0.0)
    assert_allclose(np.array([8, 1]) * even, [8**0.5, 8**0.5], rtol=1e-6)
    assert_allclose(migration(np.zeros(3, np.float32), np.ones(3, np.float32), 0.5), 1)


def test_weights_that_are_ignored_stay_bit_equal_and_nothing_is_folded_into_them(
    calibrated: Any, tiny_checkpoint: Any
) -> None:
    found = calibrated("llama", STAGE, ignore=["*.v_proj.weight", "*.up_proj.weight"])
    source = load_file(tiny_checkpoint("llama") / "model.safetensors")
    made = load_file(found.artifact.path / "model.safetensors")
    for name, weight in source.items():
        if "v_proj" in name or "up_proj" in name or "layernorm" in name:
            assert np.array_equal(made[name], weight), name
    record = json.loads((found.artifact.path / "quantization.json").read_text())
    # q/k/v and gate/up read with an ignored one, o and down read of one: the head's norm is left.
    assert [each["source"] for each in record["transforms"]] == ["model.norm.weight"]


def test_scales_that_lose_more_than_none_are_left_out_and_said(calibrated: Any) -> None:
    found = calibrated("llama", STAGE, alpha=1.0)
    record = json.loads((found.artifact.path / "quantization.json").read_text())
    left = [each for each in record["transforms"] if each["transform"] == "none"]
    for each in record["transforms"]:
        helps = each["output_error_with"] < each["output_error_without"]
        assert helps == (each["transform"] == "channel_scales")
    if left:
        assert any(f"{len(left)} of {len(record['transforms'])} inputs" in note for note in found.notes)


def test_both_walks_of_a_killed_run_are_resumed(calibrated: Any, tmp_path: Path) -> None:
    class Killed(Exception):
        """Stands for the end of the process."""

    def run(job: Path, last: int) -> tuple[Any, list[str]]:
        seen: list[str] = []

        def progress(_done: int, _total: int, what: str) -> None:
            if seen.count("layers.1") == last and what == "head":
                raise Killed
            seen.append(what)

        return calibrated("llama", STAGE, job, progress=progress, activation="static"), seen

    with pytest.raises(Killed):
        run(tmp_path / "job", 2)
    again, seen = run(tmp_path / "job", 9)
    assert "layers.1" not in seen
    assert again.artifact.digest == run(tmp_path / "other", 9)[0].artifact.digest


@pytest.mark.parametrize("activation", ["dynamic", "static"])
def test_the_plan_knows_the_formats(activation: str, calibrated: Any) -> None:
    from ingot.artifacts.schema import build
    from ingot.stages import base

    found = calibrated("llama", STAGE, activation=activation, fallback="static")
    opened = QuantizedCheckpoint.open(found.artifact.path)
    stage = base.get(STAGE)
    params = build(stage.params, {"activation": activation, "calibration": "text", "fallback": "static"})
    planned = stage.formats(params, opened.checkpoint.architecture)
    assert {name: spec.format for name, spec in planned.items()} == {
        name: spec.format for name, spec in opened.quantized.items()
    }
