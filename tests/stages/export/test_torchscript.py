"""The stage `export.torchscript_mobile`: what the lite interpreter computes, against transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import DataError, InputError
from ingot.stages.export.mobile import torchscript
from ingot.stages.export.mobile.static import StaticLinear
from ingot.stages.model.quantized import (
    ActivationGrid,
    QuantizedCheckpoint,
    QuantizedWeight,
    WeightFormat,
    WeightSpec,
)
from ingot.targets.runtimes.base import Sampling
from ingot.targets.runtimes.opening import open_session

if TYPE_CHECKING:
    from pathlib import Path

IDS = np.arange(40, 56, dtype=np.int64).reshape(1, 16)


def truth(directory: Path, ids: Any) -> Any:
    import torch
    import transformers

    is_encoder = transformers.AutoConfig.from_pretrained(directory).model_type == "bert"
    kind = transformers.AutoModel if is_encoder else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids))[0].numpy()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_a_program_computes_what_transformers_does_at_every_length(
    family: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    source, notes = tiny_checkpoint(family), []
    made = run_stage("export.torchscript_mobile", {"model": source}, notes=notes)
    session: Any = open_session(made.path, threads=1)
    try:
        for length in (1, 5, 16):
            np.testing.assert_allclose(
                session.logits(IDS[:, :length]), truth(source, IDS[:, :length]), atol=1e-4
            )
    finally:
        session.close()
    # Whether torch has XNNPACK is the build's affair; what is said of it must be so.
    assert made.facts["optimized_for_mobile"] is not bool(notes)
    assert all("optimize_for_mobile does not work" in note for note in notes)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_int8_codes_reach_the_program_and_make_it_smaller(
    family: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = tiny_checkpoint(family)
    quantized = run_stage("quantize.dynamic", {"model": source})
    made = run_stage("export.torchscript_mobile", {"model": quantized})
    plain = run_stage("export.torchscript_mobile", {"model": source})
    sizes = [(each.path / "model.ptl").stat().st_size for each in (made, plain)]
    assert sizes[0] < 0.6 * sizes[1]
    session: Any = open_session(made.path, threads=1)
    try:
        found, expected = session.logits(IDS), truth(source, IDS)
    finally:
        session.close()
    assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected)


def test_a_module_holds_the_codes_and_scales_of_the_checkpoint(tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage("quantize.dynamic", {"model": tiny_checkpoint("gpt2")})
    checkpoint = QuantizedCheckpoint.open(made.path)
    weight = checkpoint.weight(checkpoint.checkpoint.architecture.linears[0].name)
    with torchscript.engine():
        packed = torchscript.dynamic_linear(weight, None).weight()
    np.testing.assert_array_equal(packed.int_repr().numpy(), weight.codes.astype(np.int16) - 128)
    np.testing.assert_allclose(packed.q_per_channel_scales().numpy(), weight.scales[:, 0])


def test_a_program_generates_text(tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage("export.torchscript_mobile", {"model": tiny_checkpoint("llama")})
    plain = run_stage("export.onnx", {"model": tiny_checkpoint("llama")})
    rows = []
    for path in (made.path, plain.path):
        session: Any = open_session(path, threads=1)
        rows.append(session.generate([[5, 9, 11], [7, 3]], Sampling(max_new_tokens=4)))
        session.close()
    assert rows[0] == rows[1]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_static_int8_runs_with_the_grids_of_the_checkpoint_and_of_the_text(
    family: str, tiny_checkpoint: Any, run_stage: Any, text_file: Path
) -> None:
    source, text = tiny_checkpoint(family), {"calibration": str(text_file), "window": 32, "samples": 16}
    quantized = run_stage("quantize.static", {"model": source}, **text)
    made = run_stage("export.torchscript_mobile", {"model": quantized}, **text)
    data = (made.path / "model.ptl").read_bytes()
    assert b"quantized::linear" in data
    session: Any = open_session(made.path, threads=1)
    try:
        for length in (1, 16):
            ids = IDS[:, :length]
            found, expected = session.logits(ids), truth(source, ids)
            assert np.linalg.norm(found - expected) < 0.25 * np.linalg.norm(expected)
    finally:
        session.close()


def test_a_static_product_is_what_its_integers_make_rounded_to_the_range_that_was_reached() -> None:
    """By hand: codes (x − 0) of scale 1/2, weights of scale 1/4, so steps of 1/8, exact in float32."""
    import torch

    spec = WeightSpec(
        WeightFormat(8, 0, sym=True, activation="static"), (2, 2), input=ActivationGrid(0.5, 128)
    )
    codes = np.array([[130, 128], [128, 126]], np.uint8)
    weight = QuantizedWeight(
        "w", spec, codes, np.full((2, 1), 0.25, np.float32), np.full((2, 1), 128, np.uint8)
    )
    with torchscript.engine():
        module = StaticLinear(weight, torch.tensor([1.0, 0.0]))
        values = torch.tensor([[4.0, -6.0], [0.2, 2.0]])
        # 0.2 is rounded to 0.
        expected = torch.tensor([[3.0, 3.0], [1.0, -1.0]])
        torch.testing.assert_close(module(values), expected)
        assert (module.low, module.high) == (-1.0, 3.0)
        module.settle()
        found = module(values)
    torch.testing.assert_close(found, expected, atol=4 / 255 / 2 + 1e-6, rtol=0)


def test_static_activations_without_a_text_are_refused_with_what_is_missing(
    tiny_checkpoint: Any, run_stage: Any, text_file: Path
) -> None:
    given = {"calibration": str(text_file), "window": 32, "samples": 4}
    quantized = run_stage("quantize.static", {"model": tiny_checkpoint("llama")}, **given)
    with pytest.raises(DataError, match="QNNPACK rounds what such a map gives"):
        run_stage("export.torchscript_mobile", {"model": quantized})


@pytest.mark.parametrize(("bits", "group", "activation"), [(4, 32, "none"), (8, 32, "none")])
def test_weights_that_the_engine_has_no_kernel_for_are_refused(
    bits: int, group: int, activation: str, tiny_checkpoint: Any
) -> None:
    from ingot.stages.model.checkpoint import Checkpoint

    model = Checkpoint.open(tiny_checkpoint("llama")).architecture
    spec = WeightSpec(WeightFormat(bits, group, sym=True, activation=activation), (64, 64))
    with pytest.raises(InputError, match="QNNPACK has no kernel"):
        torchscript.accepts(torchscript.TorchscriptParams(), {model.linears[0].name: spec}, model)


def test_a_file_that_is_no_archive_is_not_opened(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    import shutil

    made = run_stage("export.torchscript_mobile", {"model": tiny_checkpoint("llama")})
    shutil.copy(made.path / "ingot.json", tmp_path)
    (tmp_path / "model.ptl").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no program of the lite interpreter"):
        open_session(tmp_path)
