"""Maps of one input computed as one: what is joined, what is left alone, and that nothing is held twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.stages.export.aoti.packing import Weights
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from ingot.targets.runtimes import static_session

from .test_aoti import untraced

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUANTIZED = "quantize.rtn"
Q, K, V = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")
GATE, UP = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))


def weights_of(directory: Path, quantized: QuantizedCheckpoint | None = None) -> Weights:
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(directory)
    return Weights(checkpoint, quantized, checkpoint.architecture, "float32", 64)


def made(weights: Weights) -> dict[str, torch.Tensor]:
    return {entry.shape.name: entry.make() for entry in weights.entries()}


def test_joined_rows_are_those_of_the_checkpoint_one_after_another(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    weights = weights_of(tiny_checkpoint("llama"))
    tensors, source = made(weights), weights.checkpoint.tensors
    for names in ((Q, K, V), (GATE, UP)):
        whole = np.concatenate([source.float32(name) for name in names])
        np.testing.assert_array_equal(tensors["+".join(names)].numpy(), whole)
        assert not set(names) & set(tensors)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "gpt2", "opt", "gemma2", "phi"])
def test_every_number_of_the_checkpoint_is_held_once(
    family: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    weights = weights_of(tiny_checkpoint(family))
    model = weights.model
    tables = ("rotary.", "positions.index")
    held = sum(tensor.numel() for name, tensor in made(weights).items() if not name.startswith(tables))
    source = {model.embedding, *(linear.name for linear in model.linears)}
    source |= {linear.bias for linear in model.linears if linear.bias}
    counted = sum(int(np.prod(weights.checkpoint.tensors.info(name).shape)) for name in source)
    vectors = {each.shape.name: each for each in weights._vectors()}
    assert held == counted + sum(int(np.prod(each.shape.shape)) for each in vectors.values())


def test_biases_are_joined_with_their_maps(tiny_checkpoint: Callable[[str], Path]) -> None:
    weights = weights_of(tiny_checkpoint("qwen2"))
    names = [name.replace("weight", "bias") for name in (Q, K, V)]
    whole = np.concatenate([weights.checkpoint.tensors.float32(name) for name in names])
    np.testing.assert_array_equal(made(weights)["+".join(names)].numpy(), whole)


def test_codes_are_joined_with_their_scales(make_from: Callable[..., Any]) -> None:
    path = make_from("llama", QUANTIZED, bits=4, group_size=16).artifact.path
    quantized = QuantizedCheckpoint.open(path)
    weights = weights_of(path, quantized)
    tensors, name = made(weights), f"{Q}+{K}+{V}"
    parts = [quantized.weight(each) for each in (Q, K, V)]
    whole = np.concatenate([part.dequantize() for part in parts])
    features = whole.shape[1]
    identity = torch.eye(features)[None]
    found = weights.packed[name].multiply(tensors, identity)[0].T
    np.testing.assert_allclose(found.numpy(), whole, rtol=1e-6, atol=1e-7)


def test_maps_that_are_stored_otherwise_stay_apart(make_from: Callable[..., Any]) -> None:
    overrides = {"*.v_proj.weight": {"bits": 8}}
    path = make_from("llama", QUANTIZED, bits=4, group_size=16, overrides=overrides).artifact.path
    weights = weights_of(path, QuantizedCheckpoint.open(path))
    layer = weights.joined.model.layers[0]
    assert [linear.name for linear in layer.attention.inputs] == [Q, K, V]
    assert layer.feed_forward.up.name == f"{GATE}+{UP}"
    assert {Q, K, V} <= set(weights.packed)


def test_a_prompt_of_a_length_that_comes_again_is_captured_padded_to_its_bucket(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[tuple[int, ...]] = []

    class Captured:
        """Runs what a graph would launch, in place of its own inputs."""

        def __init__(self, run: Any, *inputs: Any) -> None:
            self.run, self.inputs = run, inputs
            captured.append(tuple(inputs[0].shape))

        def __call__(self, *inputs: Any) -> Any:
            for kept, given in zip(self.inputs, inputs, strict=True):
                kept.copy_(given)
            return self.run(*self.inputs)

    plain, session = (untraced(tiny_checkpoint("llama")) for _ in range(2))
    monkeypatch.setattr(static_session, "_Captured", Captured)
    monkeypatch.setattr(static_session, "BUCKET", 16)
    monkeypatch.setattr(static_session, "MOST_CAPTURED", 80)
    monkeypatch.setattr(type(session), "_captures", property(lambda self: self is session))
    random = np.random.default_rng(0)
    for length in (10, 12, 16, 9, 30):
        ids = random.integers(0, 320, (2, length))
        (found, past), (expected, other) = session.step(ids), plain.step(ids)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        for token in random.integers(0, 320, (3, 2, 1)):
            (found, past), (expected, other) = session.step(token, None, past), plain.step(token, None, other)
            np.testing.assert_allclose(found, expected, atol=1e-5)
    # The first of a bucket runs as it is, later ones by its graph; a step has its own; 30 came once.
    assert captured == [(2, 1), (2, 16)]
    session.step(random.integers(0, 320, (4, 30)))
    session.step(random.integers(0, 320, (4, 30)))
    assert len(captured) == 2, "more tokens than are captured"
