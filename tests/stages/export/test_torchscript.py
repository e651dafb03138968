"""The stage `export.torchscript_mobile`: what the lite interpreter computes, against transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError
from ingot.stages.export.mobile import torchscript
from ingot.stages.model.quantized import QuantizedCheckpoint, WeightFormat, WeightSpec
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


@pytest.mark.parametrize(
    ("bits", "group", "activation"), [(4, 32, "none"), (8, 32, "none"), (8, 0, "static")]
)
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
