"""Other libraries' quantizers, through stand-ins that save what the real ones do: codes come back exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError, StageError
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint, WeightFormat, WeightSpec
from ingot.stages.quantize.foreign.harvest import Harvest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

TEXT = "The river ran past the old mill, and the road ran with the river to the town in April. " * 60
UP, DOWN = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("up", "down"))
NORMS = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(2)]


@pytest.fixture
def quantize(run_stage: Any, tiny_checkpoint: Any, foreign_python: str, tmp_path: Path) -> Any:
    """``(library, family="llama", **params)`` → the source, what came back, and the notes."""

    def run(library: str, family: str = "llama", **params: object) -> tuple[Checkpoint, Any, list[str]]:
        text = tmp_path / "calibration.txt"
        text.write_text(TEXT)
        notes: list[str] = []
        source = tiny_checkpoint(family)
        given: dict[str, object] = {
            "python": foreign_python, "calibration": str(text), "samples": 4, "window": 64,
            "group_size": 32, "lm_head_bits": 16, "embedding_bits": 16, "compute_dtype": "float32",
        }  # fmt: skip
        made = run_stage(f"quantize.{library}", {"model": source}, notes=notes, **{**given, **params})
        return Checkpoint.open(source), QuantizedCheckpoint.open(made.path), notes

    return run


def rounded(weight: npt.NDArray[np.float32], sym: bool) -> tuple[Any, Any, Any]:
    """Four-bit codes, scales and zero points of groups of 32 that each span their range exactly."""
    groups = weight.reshape(len(weight), -1, 32)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    if sym:
        scale, zero = np.maximum(-low, high) / np.float32(7), np.full(low.shape, 8)
    else:
        scale = (high - low) / np.float32(15)
        zero = np.rint(-low / scale)
    codes = np.clip(np.rint(groups / scale[..., None]) + zero[..., None], 0, 15)
    return codes.reshape(weight.shape), scale, zero


def check_weights(made: QuantizedCheckpoint, name: str, expected: tuple[Any, Any, Any]) -> None:
    weight = made.weight(name)
    for found, wanted in zip((weight.codes, weight.scales, weight.zeros), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def check_rest(source: Checkpoint, made: QuantizedCheckpoint, *, but: Sequence[str] = ()) -> None:
    """Everything that stays in floating point has the source's bytes."""
    for name in set(made.float_names()) - set(but):
        np.testing.assert_array_equal(made.checkpoint.tensors.raw(name), source.tensors.raw(name))


def test_codes_of_llm_compressor_come_back_and_a_head_that_it_changed_unasked_does_not(
    quantize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "touch-head")
    source, made, notes = quantize("llmcompressor", algorithm="gptq")
    assert set(made.quantized) == {
        each.name for each in source.architecture.linears if each.name != "lm_head.weight"
    }
    assert made.method == "llmcompressor.gptq"
    assert notes == ["llmcompressor changed lm_head.weight unasked: the source's are kept"]
    for name in made.quantized:
        check_weights(made, name, rounded(source.tensors.float32(name), True))
    check_rest(source, made)


def test_what_awq_folded_into_norms_is_taken_with_its_codes_and_zero_points(quantize: Any) -> None:
    source, made, notes = quantize("llmcompressor", algorithm="awq", sym=False)
    for name in NORMS:
        doubled = source.tensors.float32(name) * 2
        np.testing.assert_array_equal(made.checkpoint.tensors.float32(name), doubled)
    check_rest(source, made, but=NORMS)
    for name, spec in made.quantized.items():
        halved = np.float32(2 if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj") else 1)
        check_weights(made, name, rounded(source.tensors.float32(name) / halved, False))
        assert not spec.format.sym
    assert len(notes) == 1
    assert "pinned memory" in notes[0]


def test_codes_of_gptqmodel_come_back_and_its_dtype_changes_nothing_that_stays(quantize: Any) -> None:
    import torch

    ignore = ("*.layers.1.mlp.down_proj.weight", "*.q_proj.weight")
    source, made, notes = quantize("gptqmodel", ignore=ignore, compute_dtype="bfloat16")
    assert notes == []
    assert "model.layers.0.mlp.down_proj.weight" in made.quantized
    assert not any("q_proj" in name or "layers.1.mlp.down" in name for name in made.quantized)
    for name in made.quantized:
        seen = torch.from_numpy(source.tensors.float32(name)).to(torch.bfloat16).float().numpy()
        check_weights(made, name, rounded(seen, True))
    check_rest(source, made)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("crash", "ended with status 1: RuntimeError: no kernel image is available"),
        ("die", "killed by signal 9"),
    ],
)
def test_a_library_that_fails_fails_the_stage_with_its_last_words(
    quantize: Any, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", fault)
    with pytest.raises(StageError, match=told):
        quantize("llmcompressor", algorithm="gptq")


def packed_checkpoint(directory: Path, source: Checkpoint, names: Sequence[str], bits: int) -> None:
    """A checkpoint in the compressed-tensors layout in which ``names`` are packed, all codes zero."""
    import json

    from safetensors.numpy import save_file

    tensors: dict[str, Any] = {name: source.tensors.float32(name) for name in source.tensors.names()}
    for name in names:
        rows, width = tensors.pop(name).shape
        module = name.removesuffix(".weight")
        tensors[f"{module}.weight_packed"] = np.zeros((rows, width * bits // 32), np.int32)
        tensors[f"{module}.weight_scale"] = np.ones((rows, width // 32), np.float32)
        tensors[f"{module}.weight_shape"] = np.array([rows, width])
    save_file(tensors, directory / "model.safetensors")
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    group = {"targets": ["Linear"], "weights": weights}
    record = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": group}}
    (directory / "config.json").write_text(json.dumps({**source.config, "quantization_config": record}))


@pytest.mark.parametrize(
    ("names", "bits", "told"),
    [
        ((UP,), 4, f"{DOWN} came back in floating point"),
        ((UP, DOWN, "lm_head.weight"), 4, "lm_head was quantized, although it was not to be"),
        ((UP, DOWN), 8, f"{DOWN} came back with 8 bits in groups of 32"),
    ],
)
def test_a_library_that_did_something_else_is_found_out(
    tiny_checkpoint: Any, tmp_path: Path, names: tuple[str, ...], bits: int, told: str
) -> None:
    source = Checkpoint.open(tiny_checkpoint("llama"))
    packed_checkpoint(tmp_path, source, names, bits)
    form = WeightFormat(4, 32, sym=True)
    wanted = {DOWN: WeightSpec(form, (64, 160)), UP: WeightSpec(form, (160, 64))}
    with pytest.raises(StageError, match=told):
        Harvest(tmp_path, source, wanted)


def test_models_and_groups_that_the_libraries_do_not_take_are_refused(quantize: Any) -> None:
    with pytest.raises(RecipeError, match="encoder"):
        quantize("llmcompressor", family="bert")
    with pytest.raises(RecipeError, match="groups of 128 do not divide"):
        quantize("llmcompressor", group_size=128)
    with pytest.raises(RecipeError, match="matches no weight"):
        quantize("llmcompressor", ignore=("*.nothing",))


def test_an_answer_that_an_earlier_try_left_is_not_asked_for_again(tmp_path: Path) -> None:
    import json

    from ingot.stages.quantize.foreign.child import ask

    value = {"seconds": 2.5, "cpu_seconds": 2.0, "max_rss_bytes": 7, "dtype": "float32", "notes": ["so"]}
    (tmp_path / "answer.json").write_text(json.dumps(value))
    found = ask("/nonexistent/python", tmp_path, {})
    assert (found.seconds, found.cpu_seconds, found.max_rss_bytes, found.notes) == (2.5, 2.0, 7, ("so",))
    (tmp_path / "answer.json").unlink()
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(StageError, match="could not be started"):
        ask("/nonexistent/python", tmp_path, {})
    # What a try that was cut off left behind must not pass for the next one's.
    assert not (tmp_path / "checkpoint").exists()
