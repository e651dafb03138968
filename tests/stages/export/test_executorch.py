"""The stage `export.executorch` where ExecuTorch is: its programs against transformers and the codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.targets.runtimes.base import Sampling
from ingot.targets.runtimes.opening import open_session

if TYPE_CHECKING:
    from pathlib import Path

# Lowering takes a minute for the smallest network, and on a busy machine several.
pytestmark = [pytest.mark.device, pytest.mark.timeout(1800)]
IDS = np.arange(40, 56, dtype=np.int64).reshape(1, 16)


def truth(directory: Path, ids: Any) -> Any:
    """What transformers computes: logits, or an encoder's hidden states."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    is_encoder = config.model_type == "bert"
    kind = transformers.AutoModel if is_encoder else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids))[0].numpy()


def relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2", "bert"])
def plain(request: pytest.FixtureRequest, tiny_checkpoint: Any, run_stage: Any) -> tuple[Path, Path]:
    """A checkpoint and its program in float32."""
    source = tiny_checkpoint(request.param)
    return source, run_stage("export.executorch", {"model": source}).path


def test_a_program_computes_what_transformers_does_at_every_length(plain: tuple[Path, Path]) -> None:
    source, made = plain
    session = open_session(made, threads=1)
    try:
        for length in (1, 5, 16):
            ids = IDS[:, :length]
            found = session.logits(ids)  # type: ignore[call-arg,union-attr]
            np.testing.assert_allclose(found, truth(source, ids), atol=1e-4)
    finally:
        session.close()


def test_padding_does_not_reach_the_program(plain: tuple[Path, Path]) -> None:
    session: Any = open_session(plain[1], threads=1)
    mask = np.ones((2, 16), np.int64)
    mask[1, 10:] = 0
    ids = np.repeat(IDS, 2, axis=0)
    try:
        found = session.logits(ids, mask)
        np.testing.assert_array_equal(found[1, :10], session.logits(ids[:1, :10])[0])
        assert not found[1, 10:].any()
    finally:
        session.close()


def test_steps_go_on_from_the_cache_and_an_older_past_is_computed_again(
    tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = tiny_checkpoint("llama")
    session: Any = open_session(run_stage("export.executorch", {"model": source}).path, threads=1)
    expected = truth(source, IDS)
    try:
        first, past = session.step(IDS[:, :9])
        then, _ = session.step(IDS[:, 9:12], None, past)
        np.testing.assert_allclose(np.concatenate([first, then], 1), expected[:, :12], atol=1e-4)
        other, _ = session.step(IDS[:, 9:10], None, past)
        np.testing.assert_allclose(other, expected[:, 9:10], atol=1e-4)
        (row,) = session.generate([[5, 9, 11]], Sampling(max_new_tokens=3))
        assert len(row) <= 3
    finally:
        session.close()


@pytest.mark.parametrize(
    ("quantizer", "params"),
    [
        ("quantize.rtn", {"bits": 4, "group_size": 32, "head_group_size": 0}),
        ("quantize.dynamic", {}),
    ],
)
def test_every_quantized_map_is_delegated_with_the_codes_of_the_checkpoint(
    quantizer: str, params: dict[str, object], tiny_checkpoint: Any, run_stage: Any
) -> None:
    from ingot.stages.model.quantized import QuantizedCheckpoint

    source = tiny_checkpoint("gpt2")
    quantized = run_stage(quantizer, {"model": source}, **params)
    made = run_stage("export.executorch", {"model": quantized})
    checkpoint = QuantizedCheckpoint.open(quantized.path)
    products = [linear.name for linear in checkpoint.checkpoint.architecture.linears]
    assert products
    data = (made.path / "model.pte").read_bytes()
    for name in products:
        weight = checkpoint.weight(name)
        assert packed(weight) in data, name
    session: Any = open_session(made.path, threads=1)
    try:
        error = relative(session.logits(IDS), truth(source, IDS))
    finally:
        session.close()
    assert error < 0.3
    assert json.loads((made.path / "ingot.json").read_text())["format"] == "executorch"


def packed(weight: Any) -> bytes:
    """A weight's codes as XNNPACK reads them (`xnn_define_blockwise_quantized_tensor_value`): int8 of 8 bits;
    of 4 bits the codes about 8, two a byte, the earlier one low.
    """
    if weight.spec.format.bits == 8:
        return (weight.codes.astype(np.int16) - 128).astype(np.int8).tobytes()
    pairs = weight.codes.reshape(len(weight.codes), -1, 2)
    return (pairs[..., 0] | pairs[..., 1] << 4).astype(np.uint8).tobytes()


def test_four_bits_take_less_than_a_sixth_of_the_linear_payload(tiny_checkpoint: Any, run_stage: Any) -> None:
    source = tiny_checkpoint("llama")
    quantized = run_stage(
        "quantize.rtn", {"model": source}, bits=4, group_size=32, lm_head_bits=4, embedding_bits=16
    )
    small = run_stage("export.executorch", {"model": quantized}).facts["bytes_by_part"]
    large = run_stage("export.executorch", {"model": source}).facts["bytes_by_part"]
    assert small["delegated_weights"] <= 0.17 * large["delegated_weights"]


def test_quality_and_cost_are_measured_through_the_program(
    tiny_checkpoint: Any, run_stage: Any, text_file: Path
) -> None:
    source = tiny_checkpoint("llama")
    made = run_stage("export.executorch", {"model": source})
    loaded = run_stage("load", {}, model=str(source))
    reference = run_stage(
        "validate.reference", {"model": loaded}, evaluation=str(text_file), window=32, max_tokens=256
    )
    quality = run_stage("validate.quality", {"artifact": made, "reference": reference})
    found = json.loads((quality.path / "measurements.json").read_text())
    assert found["environment"]["runtime"] == "executorch"
    assert found["metrics"]["kl_divergence"]["value"] < 1e-6
    cost = run_stage(
        "validate.cost",
        {"artifact": made, "reference": made, "source": loaded},
        repeats=1, passes=1, prefill_tokens=8, decode_tokens=4, threads=1,
    )  # fmt: skip
    measured = json.loads((cost.path / "measurements.json").read_text())["metrics"]
    assert measured["size_bytes"]["value"] == (made.path / "model.pte").stat().st_size
    assert measured["decode_ms"]["value"] > 0
