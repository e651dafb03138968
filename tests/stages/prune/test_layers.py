"""`prune.layers`: the layers that turn their input least go, and the rest computes as before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError
from ingot.stages.model.calibration.samples import take
from ingot.stages.model.torch_network import Network

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "prune.layers"
IDS = np.array([[5, 17, 200, 31, 44, 90, 123, 7, 260, 311, 64, 12]])
# Transformers' module that holds the layers.
LAYERS = {
    "llama": "model.layers", "qwen2": "model.layers", "qwen3": "model.layers", "gemma3_text": "model.layers",
    "mixtral": "model.layers", "qwen2_moe": "model.layers", "gpt2": "transformer.h",
    "opt": "model.decoder.layers", "gpt_neox": "gpt_neox.layers", "bert": "encoder.layer",
    "distilbert": "transformer.layer",
}  # fmt: skip


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize("gone", [0, 1])
def test_it_computes_what_transformers_does_without_the_layer(family: str, gone: int, prune: Any) -> None:
    found = prune(family, STAGE, indices=[gone], calibration=None)
    task = found.before.architecture.task
    assert len(found.after.architecture.layers) == 1
    network = Network(found.directory, task)
    layers = network.module.get_submodule(LAYERS[family])
    del layers[gone]
    network.module.config.num_hidden_layers = 1
    if getattr(network.module.config, "layer_types", None):
        del network.module.config.layer_types[gone]
    made = Network(found.artifact.path, task)(IDS)
    np.testing.assert_allclose(made, network(IDS), rtol=1e-5, atol=1e-5)


def test_what_the_config_says_of_each_layer_goes_with_it(prune: Any) -> None:
    assert prune("gemma3_text", STAGE, indices=[0], calibration=None).after.config["layer_types"] == [
        "full_attention"
    ]
    sparse, dense = (
        prune("qwen2_moe", STAGE, indices=[gone], calibration=None).after.config for gone in (1, 0)
    )
    assert (sparse["mlp_only_layers"], dense["mlp_only_layers"]) == ([], [0])


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_influence_is_one_less_the_cosine_of_what_transformers_gives(
    family: str, prune: Any, calibration: Path
) -> None:
    import torch

    found = prune(family, STAGE, count=1)
    model = found.before.architecture
    network = Network(found.directory, model.task).module
    cosines: list[list[torch.Tensor]] = [[], []]
    for batch in take(calibration, found.directory, model, 64, 16).batches:
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        hooks = [
            layer.register_forward_hook(
                lambda _module, given, out, seen=seen: seen.append(
                    (given[0], out[0] if isinstance(out, tuple) else out)
                ),
            )
            for layer in network.get_submodule(LAYERS[family])
        ]
        with torch.inference_mode():
            network(batch.ids)
        for hook in hooks:
            hook.remove()
        for layer, (one, other) in enumerate(seen):
            cosines[layer].append(torch.nn.functional.cosine_similarity(one, other, dim=-1).flatten())
    expected = [1 - float(torch.cat(each).double().mean()) for each in cosines]
    told = found.observed["influence"]
    assert [each["influence"] for each in told] == pytest.approx(expected, abs=1e-5)
    assert found.artifact.facts["layers_dropped"] == [int(np.argmin(expected))]
    assert [each["dropped"] for each in told] == [layer == np.argmin(expected) for layer in range(2)]
    json.dumps(found.observed, allow_nan=False)


def test_a_layer_that_adds_nothing_is_dropped_and_nothing_changes(
    prune: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint("llama"), source)
    weights = load_file(source / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"model.layers.0.{name}.weight"][:] = 0.0
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    found = prune(source, STAGE, share=0.5)
    assert found.artifact.facts["layers_dropped"] == [0]
    np.testing.assert_array_equal(
        Network(found.artifact.path, "causal-lm")(IDS), Network(source, "causal-lm")(IDS)
    )
    kept = prune(source, STAGE, share=0.5, keep=[0])
    assert kept.artifact.facts["layers_dropped"] == [1]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "no layer would go"),
        ({"count": 1, "share": 0.5}, "count and share each say"),
        ({"indices": [2]}, "there is no layer 2 in a model of 2 layers"),
        ({"indices": [0, 1]}, "leaves none of 2 layers"),
        ({"count": 2}, "leaves none of 2 layers"),
        ({"count": 1, "calibration": None}, "measured on a calibration text"),
        ({"count": 1, "keep": [0, 1]}, "2 of 2 layers stay"),
        ({"count": 1, "keep": [5]}, "there is no layer 5"),
        ({"indices": [1], "keep": [0]}, "has no effect beside indices"),
    ],
)
def test_what_cannot_go_is_refused(params: dict[str, Any], said: str, prune: Any) -> None:
    with pytest.raises(RecipeError, match=said):
        prune("llama", STAGE, **params)


def test_an_encoder_decoder_is_refused(prune: Any) -> None:
    with pytest.raises(RecipeError, match="layers of an encoder and of a decoder"):
        prune("t5", STAGE, count=1)
