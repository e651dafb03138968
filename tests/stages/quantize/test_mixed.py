"""`quantize.mixed`: the average is met, what was fixed stays, and it loses less than one width for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.schema import build
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from ingot.stages.quantize.mixed import MixedParams, formats
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "quantize.mixed"
PLAIN = {
    "group_size": 32, "lm_head_bits": 16, "embedding_bits": 16, "sensitivity_samples": 8, "samples": 8,
}  # fmt: skip


def average(found: Any) -> float:
    specs = QuantizedCheckpoint.open(found.artifact.path).quantized.values()
    return sum(s.parameters * s.format.bits for s in specs) / sum(s.parameters for s in specs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "t5", "bert"])
def test_the_average_is_met_and_the_record_holds_what_decided(family: str, calibrated: Any) -> None:
    found = calibrated(family, STAGE, **PLAIN, bits_per_weight=3.0)
    assert 2.9 < average(found) <= 3.0
    assert found.artifact.facts["code_bits_per_weight"] == pytest.approx(average(found), abs=1e-4)
    assert len({entry["bits"] for entry in found.tensors.values()}) > 1
    spent = 0.0
    for entry in found.tensors.values():
        costs = {int(bits): cost for bits, cost in entry["cost_nats"].items()}
        if costs:
            assert list(costs) == [2, 3, 4, 8]
            assert costs[2] >= costs[3] >= costs[4] >= costs[8] >= 0
            spent += costs[entry["bits"]] - costs[3]
    assert spent < 0


def test_the_network_computes_more_nearly_what_it_did_than_at_one_width(
    calibrated: Any, output_error: Any
) -> None:
    mixed = output_error("llama", calibrated("llama", STAGE, **PLAIN, bits_per_weight=3.0))
    one = {name: value for name, value in PLAIN.items() if name != "sensitivity_samples"}
    assert mixed < output_error("llama", calibrated("llama", "quantize.gptq", **one, bits=3))


def test_overrides_and_what_is_ignored_hold_and_count(calibrated: Any, tiny_checkpoint: Any) -> None:
    found = calibrated(
        "llama", STAGE, **PLAIN, bits_per_weight=4.0, choices_bits=[2, 3, 4],
        overrides={"*.v_proj.weight": {"bits": 8}, "*.q_proj.weight": {"group_size": 16}},
        ignore=["*.1.mlp.down_proj.weight"],
    )  # fmt: skip
    specs = QuantizedCheckpoint.open(found.artifact.path).quantized
    name = "model.layers.1.{}.weight".format
    assert specs[name("self_attn.v_proj")].format.bits == 8
    assert specs[name("self_attn.q_proj")].format.group_size == 16
    assert "cost_nats" not in found.tensors[name("self_attn.v_proj")]
    assert 3.7 < average(found) <= 4.0
    kept = name("mlp.down_proj")
    before, after = (
        load_file(path / "model.safetensors")[kept]
        for path in (tiny_checkpoint("llama"), found.artifact.path)
    )
    assert np.array_equal(before, after)


def test_a_size_holds_codes_scales_head_and_embedding(calibrated: Any) -> None:
    params = {"sensitivity_samples": 8, "samples": 8, "group_size": 32}
    found = calibrated("llama", STAGE, **params, max_size_mb=0.08)
    specs = QuantizedCheckpoint.open(found.artifact.path).quantized.values()
    size = sum(spec.payload_bits for spec in specs) / 8e6
    assert 0.077 < size <= 0.08


def test_threads_and_a_kill_in_either_pass_change_no_byte(calibrated: Any, tmp_path: Path) -> None:
    whole = calibrated("llama", STAGE, **PLAIN, bits_per_weight=3.0)
    for number, (threads, at) in enumerate(((1, 1), (3, 2))):
        steps: list[str] = []

        def die(_done: int, _total: int, what: str, steps: list[str] = steps, at: int = at) -> None:
            steps.append(what)
            if steps.count("layers.1") == at + 1:
                raise KeyboardInterrupt

        job = tmp_path / f"job{number}"
        with pytest.raises(KeyboardInterrupt):
            calibrated("llama", STAGE, job, threads, die, **PLAIN, bits_per_weight=3.0)
        seen: list[str] = []
        again = calibrated(
            "llama", STAGE, job, threads, lambda d, t, what, seen=seen: seen.append(what), **PLAIN,
            bits_per_weight=3.0,
        )  # fmt: skip
        assert "layers.1 back" not in seen
        assert seen.count("layers.0") == (0 if at == 2 else 1)
        assert again.artifact.digest == whole.artifact.digest
        assert again.tensors["model.layers.0.mlp.up_proj.weight"]["cost_nats"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits_per_weight": 2.5, "choices_bits": [3, 4]}, "2.5 is below the smallest width, 3"),
        ({"choices_bits": [3, 5]}, "5 is not one of 2, 3, 4, 8"),
        ({"choices_bits": []}, "nothing is not one of 2, 3, 4, 8"),
        ({"bits_per_weight": 3.0, "max_size_mb": 1.0}, "are two targets"),
        ({"bits_per_weight": 9.0}, "above 8"),
        ({"bits": 4}, "4 is not one of 0"),
    ],
)
def test_what_cannot_be_is_said_while_planning(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(MixedParams, {"calibration": "text", **values})


def test_a_target_that_only_the_model_shows_to_be_out_of_reach_is_said_from_headers(
    tiny_checkpoint: Any, calibrated: Any
) -> None:
    model = Checkpoint.open(tiny_checkpoint("llama")).architecture
    small = build(MixedParams, {"calibration": "text", "max_size_mb": 0.01})
    with pytest.raises(
        RecipeError, match=r"max_size_mb: 0\.01 is out of reach: the smallest widths take 0\.0"
    ):
        formats(small, model)
    wide: dict[str, object] = {"overrides": {"*_proj.weight": {"bits": 8}}, "bits_per_weight": 3.0}
    with pytest.raises(RecipeError, match=r"3 is out of reach: the smallest widths and the overrides make 8"):
        calibrated("llama", STAGE, **PLAIN, **wide)


def test_sizes_are_known_before_anything_is_measured(tiny_checkpoint: Any) -> None:
    model = Checkpoint.open(tiny_checkpoint("llama")).architecture
    specs = formats(build(MixedParams, {"calibration": "text", "bits_per_weight": 3.0}), model)
    linear = [specs[each.name] for each in model.linears if each.name != model.lm_head]
    bits = sum(spec.parameters * spec.format.bits for spec in linear)
    assert bits / sum(spec.parameters for spec in linear) == pytest.approx(3.0, abs=0.05)
