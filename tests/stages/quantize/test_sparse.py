"""Quantizers on pruned checkpoints: zeros stay zeros, exactly; and pruning and rounding in one sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

PLAIN = {"bits": 4, "group_size": 32, "lm_head_bits": 16, "embedding_bits": 16}
NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="session")
def sparse(run_stage: Any, tiny_checkpoint: Any) -> Callable[[str], Path]:
    """The checkpoint of a family, half of its weights zero as 2:4."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = run_stage(
                "prune.magnitude", {"model": tiny_checkpoint(family)}, pattern="2:4"
            ).path
        return made[family]

    return make


def zeros(directory: Path) -> dict[str, np.ndarray]:
    """Where each linear weight of the layers is zero, bool [out, in]."""
    source = Checkpoint.open(directory)
    linears = [linear for linear in source.architecture.linears if linear.layer is not None]
    found = {linear.name: source.tensors.float32(linear.name) == 0 for linear in linears}
    return {
        linear.name: found[linear.name].T if linear.stored_in_out else found[linear.name]
        for linear in linears
    }


METHODS: dict[str, dict[str, object]] = {
    "quantize.rtn": PLAIN,
    "quantize.gptq": PLAIN,
    "quantize.awq": PLAIN,
    "quantize.nf4": {},
    "quantize.fp8": {},
    "quantize.dynamic": {},
    "quantize.smoothquant": {},
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        *((stage, {}) for stage in METHODS),
        ("quantize.rtn", {"sym": False}),
        ("quantize.gptq", {"sym": False}),
        ("quantize.gptq", {"bits": 2, "error_correction": True}),
        ("quantize.awq", {"sym": False, "bits": 3}),
    ],
)
def test_zeros_of_a_pruned_checkpoint_stay_and_are_counted(
    family: str, stage: str, changes: dict[str, object], sparse: Any, calibrated: Any
) -> None:
    found = calibrated(sparse(family), stage, **{**METHODS[stage], **changes})
    made = QuantizedCheckpoint.open(found.artifact.path)
    before = zeros(sparse(family))
    assert before.keys() <= made.quantized.keys()
    for name, mask in before.items():
        assert mask.mean() == 0.5
        assert (made.weight(name).dequantize()[mask] == 0).all()
    assert found.artifact.facts["zeros_kept"] == 1.0
    assert found.artifact.facts["input_sparsity"] == pytest.approx(0.5, abs=0.2)
    assert not any("zeros" in note for note in found.notes)


def test_of_a_dense_checkpoint_nothing_is_said(calibrated: Any) -> None:
    assert "zeros_kept" not in calibrated("llama", "quantize.rtn").artifact.facts


def test_without_keep_zeros_errors_move_them_and_it_is_noted(sparse: Any, calibrated: Any) -> None:
    found = calibrated(sparse("llama"), "quantize.gptq", **PLAIN, keep_zeros=False)
    made = QuantizedCheckpoint.open(found.artifact.path)
    before = zeros(sparse("llama"))
    lost = sum(int((made.weight(name).dequantize()[mask] != 0).sum()) for name, mask in before.items())
    share = lost / sum(int(mask.sum()) for mask in before.values())
    assert share > 0.01
    assert found.artifact.facts["zeros_kept"] == pytest.approx(1 - share, abs=1e-9)
    assert any(f"{share:.2%} of the zeros" in note for note in found.notes)


def test_columns_behind_pay_for_a_zero_that_was_to_move() -> None:
    """A row of three worked by hand.

    H = [[2, 1, 0], [1, 2, 1], [0, 1, 2]], so H⁻¹ = [[3, −2, 1], [−2, 4, −2], [1, −2, 3]] / 4, and of its
    factor UᵀU U₁₂/U₁₁ = −2/3, U₁₃/U₁₁ = 1/3 and U₂₃/U₂₂ = −1/2. With levels …, −1, 0, 1, … the first, 0.3,
    becomes 0 and moves the second, a zero, by +0.2 and the third by −0.1. The zero goes back, which moves the
    third by +0.1.
    """
    import torch
    from ingot.stages.model.calibration.second_order import factorize
    from ingot.stages.quantize.gptq_solve import round_columns
    from ingot.stages.quantize.hessian import Levels

    hessian = torch.tensor([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]])
    levels = Levels(torch.ones(1, 1), torch.full((1, 1), 8.0), torch.zeros(3, dtype=torch.int64), 4)
    factor = factorize(hessian, 0.0, desc_act=False)
    for third, expected in ((0.49, 0), (0.51, 1)):
        weight = torch.tensor([[0.3, 0.0, third]])
        codes = round_columns(weight, levels, factor, weight == 0)
        assert codes.tolist() == [[8, 8, 8 + expected]]
    # An error of 0.24 would move 0.2 to 0.36, which rounds up at levels 0.5 apart, unless it has gone.
    finer = Levels(torch.full((1, 1), 0.5), levels.zeros, levels.group, 4)
    moved, gone = torch.tensor([[0.24, 0.2, 3.0]]), torch.tensor([[False, True, False]])
    assert round_columns(moved, finer, factor).tolist()[0][1] == 9
    assert round_columns(moved, finer, factor, gone).tolist()[0][1] == 8


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "mixtral"])
@pytest.mark.parametrize("pattern", ["2:4", "4:8", None])
def test_one_sweep_prunes_and_rounds(family: str, pattern: str | None, calibrated: Any) -> None:
    target = {"pattern": pattern} if pattern else {"sparsity": 0.5}
    # Errors are told of each map by itself: so what it is to make up for of others is left out here.
    found = calibrated(family, "quantize.gptq", **PLAIN, **target, error_correction=False)
    made = QuantizedCheckpoint.open(found.artifact.path)
    for name, entry in found.tensors.items():
        weight = made.weight(name).dequantize()
        assert entry["sparsity"] == pytest.approx(float((weight == 0).mean()))
        assert entry["sparsity"] >= 0.499
        if pattern:
            groups = weight.reshape(-1, int(pattern[-1]))
            assert ((groups != 0).sum(1) <= groups.shape[1] // 2).all()
        assert entry["weighted_error"] <= entry["rtn_weighted_error"] * (1 + 1e-6)
    total = sum(entry["weighted_error"] for entry in found.tensors.values())
    assert total < 0.9 * sum(entry["rtn_weighted_error"] for entry in found.tensors.values())
    assert found.artifact.facts["sparsity"] >= 0.499


def test_one_sweep_computes_more_nearly_what_the_network_did_than_magnitude_and_rounding(
    sparse: Any, calibrated: Any, output_error: Any
) -> None:
    joint = output_error("llama", calibrated("llama", "quantize.gptq", **PLAIN, pattern="2:4"))
    after = output_error("llama", calibrated(sparse("llama"), "quantize.gptq", **PLAIN))
    assert joint < 0.9 * after


def test_one_sweep_makes_up_for_both_errors_of_earlier_layers_and_is_nearer_than_two(
    calibrated: Any, output_error: Any
) -> None:
    pruned = calibrated("llama", "prune.sparsegpt", pattern="2:4").artifact.path
    after = output_error("llama", calibrated(pruned, "quantize.gptq", **PLAIN))
    joint = calibrated("llama", "quantize.gptq", **PLAIN, pattern="2:4")
    assert output_error("llama", joint) < after
    told = calibrated("llama", "quantize.gptq", **PLAIN, pattern="2:4", error_correction=True)
    assert joint.artifact.digest == told.artifact.digest
    plain = calibrated("llama", "quantize.gptq", **PLAIN)
    untold = calibrated("llama", "quantize.gptq", **PLAIN, error_correction=False)
    assert plain.artifact.digest == untold.artifact.digest


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sparsity": 1.0}, "quantize.sparsity: 1.0 is not above 0 and below 1"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "two targets"),
        ({"pattern": "1:4"}, "is not one of 2:4, 4:8"),
    ],
)
def test_a_sparsity_that_means_nothing_is_refused(params: Any, message: str, calibrated: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        calibrated("llama", "quantize.gptq", **PLAIN, **params)
