"""The module that programs of phones are traced from, in plain torch: against transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError
from ingot.stages.export.mobile.executorch import check_kernel
from ingot.stages.export.mobile.network import Network, check_supported
from ingot.stages.export.mobile.weights import CodedEmbedding, Weights, plain_linear
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import ActivationGrid, QuantizedCheckpoint, WeightFormat, WeightSpec

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.arange(40, 56)[None]


def network_of(directory: Path, *, cached: bool) -> Network:
    checkpoint = Checkpoint.open(directory)
    model = checkpoint.architecture
    weights = Weights(checkpoint, None, lambda weight, bias: plain_linear(torch.empty(0), bias))
    network = Network(model, weights.read, weights.linear, weights.embedding(model), length=64, cached=cached)
    weights.account(model)
    return network.eval()


def truth(directory: Path, model_class: str = "AutoModelForCausalLM") -> torch.Tensor:
    import transformers

    model = getattr(transformers, model_class).from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(IDS)[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "phi3", "gpt_neox", "opt"])
def test_a_language_model_computes_what_transformers_does(family: str, tiny_checkpoint: Any) -> None:
    source = tiny_checkpoint(family)
    expected = truth(source)
    with torch.no_grad():
        torch.testing.assert_close(network_of(source, cached=False)(IDS), expected, atol=5e-5, rtol=1e-4)
        cached = network_of(source, cached=True)
        whole = cached(IDS, torch.arange(16))
        torch.testing.assert_close(whole, expected, atol=5e-5, rtol=1e-4)
        # What an earlier and longer text left behind is not seen.
        first = cached(IDS[:, :5], torch.arange(5))
        rest = [cached(IDS[:, at : at + 1], torch.tensor([at])) for at in range(5, 16)]
        torch.testing.assert_close(torch.cat([first, *rest], 1), expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_computes_what_transformers_does(family: str, tiny_checkpoint: Any) -> None:
    source = tiny_checkpoint(family)
    with torch.no_grad():
        found = network_of(source, cached=False)(IDS)
    torch.testing.assert_close(found, truth(source, "AutoModel"), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "what"), [("t5", "encoder-decoder"), ("mixtral", "mixture of experts")])
def test_other_networks_are_refused_with_what_they_are(family: str, what: str, tiny_checkpoint: Any) -> None:
    with pytest.raises(InputError, match=what):
        check_supported(Checkpoint.open(tiny_checkpoint(family)).architecture)


@pytest.mark.parametrize("group_size", [0, 32])
def test_rows_of_codes_are_the_weights_that_they_stand_for(
    group_size: int, tiny_checkpoint: Any, run_stage: Any
) -> None:
    made = run_stage(
        "quantize.rtn", {"model": tiny_checkpoint("llama")}, bits=4, sym=False, head_group_size=group_size
    )
    weight = QuantizedCheckpoint.open(made.path).weight("model.embed_tokens.weight")
    found = CodedEmbedding(weight)(IDS)[0].numpy()
    np.testing.assert_allclose(found, weight.dequantize()[IDS[0].numpy()], rtol=1e-6)


def test_the_head_has_the_groups_that_it_is_given(tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, bits=4, head_group_size=0)
    specs = QuantizedCheckpoint.open(made.path).quantized
    assert specs["lm_head.weight"].format.group_size == 0
    assert specs["model.layers.0.mlp.up_proj.weight"].format.group_size == 32


@pytest.mark.parametrize(
    ("form", "columns", "fix"),
    [
        (WeightFormat(4, 32, sym=True), 64, None),
        (WeightFormat(4, 0, sym=True, activation="dynamic"), 64, None),
        (WeightFormat(8, 0, sym=True, activation="dynamic"), 64, None),
        (WeightFormat(3, 32, sym=True), 64, "4 or 8 bits"),
        (WeightFormat(4, 32, sym=False), 64, "sym: true"),
        (WeightFormat(8, 32, sym=True), 64, "head_group_size: 0"),
        (WeightFormat(4, 16, sym=True), 64, "multiple of 32"),
        (WeightFormat(4, 32, sym=True), 80, "divides 80"),
        (WeightFormat(8, 0, sym=True, activation="static"), 64, "quantize.dynamic"),
    ],
)
def test_weights_without_a_kernel_are_refused_with_what_to_do(
    form: WeightFormat, columns: int, fix: str | None
) -> None:
    grid = ActivationGrid(0.1, 128) if form.activation == "static" else None
    spec = WeightSpec(form, (8, columns), input=grid)
    if fix is None:
        check_kernel("w", spec)
        return
    with pytest.raises(InputError) as caught:
        check_kernel("w", spec)
    assert fix in str(caught.value.fix)
