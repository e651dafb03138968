"""Fitted maps are least-squares solutions, and bring the state back to what it was in the whole network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from .conftest import outputs_on

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "prune.structured"


@pytest.mark.parametrize("drifts", [False, True])
def test_a_fitted_map_solves_the_least_squares_problem(drifts: bool) -> None:
    import torch
    from ingot.stages.prune.least_squares import fitted

    generator = np.random.default_rng(0)
    weight, inputs = (
        generator.normal(size=(5, 12)),
        generator.normal(size=(12, 12)) @ generator.normal(size=(12, 90)),
    )
    delta = generator.normal(size=(5, 90)) * drifts
    kept = np.array([0, 3, 4, 7, 11])
    hessian, damp = inputs @ inputs.T / 90, 0.03
    strength = np.sqrt(damp * hessian[kept, kept].mean() * 90)
    # Damping as so many more rows of the system, which ask for the weights that were there.
    system = np.vstack([inputs[kept].T, strength * np.eye(len(kept))])
    wanted = np.vstack([(weight @ inputs + delta).T, strength * weight[:, kept].T])
    expected = np.linalg.lstsq(system, wanted, rcond=None)[0].T
    found = fitted(
        torch.tensor(weight, dtype=torch.float32), torch.tensor(kept),
        torch.tensor(hessian, dtype=torch.float32),
        torch.tensor(delta @ inputs.T / 90, dtype=torch.float32) if drifts else None, damp,
    )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "qwen3", "bert", "t5"])
def test_fitting_to_the_whole_network_is_nearer_to_it_than_fitting_each_map_to_itself(
    family: str, prune: Any, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.stages.prune import refit

    whole = prune(family, STAGE, ffn=0.5, feature_epochs=0)
    monkeypatch.setattr(refit, "_drift", lambda *_: (None, 0.0))
    alone = prune(family, STAGE, ffn=0.5, feature_epochs=0)
    paths = (whole.directory, whole.artifact.path, alone.artifact.path)
    exact, near, far = outputs_on(calibration, *paths)
    assert np.linalg.norm(near - exact) < np.linalg.norm(far - exact)


@pytest.mark.parametrize(
    ("family", "layer", "output"),
    [("llama", "model.layers", "self_attn.o_proj"), ("gpt2", "transformer.h", "attn.c_proj")],
)
def test_attention_behind_a_cut_makes_up_for_it_as_least_squares_do(
    family: str, layer: str, output: str, prune: Any, calibration: Path
) -> None:
    """What it reads and is added to is taken from transformers, before and after; numpy solves."""
    from ingot.stages.model.calibration.samples import take

    damp = 0.05
    found = prune(family, STAGE, ffn=0.5, feature_epochs=0, damp_percent=damp, compute_dtype="float32")
    (batch,) = take(calibration, found.directory, found.before.architecture, 64, 16).batches

    def read(path: Path, name: str) -> tuple[Any, Any, Any, Any]:
        """Of a layer, what it takes, and its attention's last map reads and gives, with its weight."""
        from ingot.stages.model.torch_network import Network

        network, seen = Network(path, "causal-lm"), {}
        part = network.module.get_submodule(f"{name}.{output}")
        hooks = [
            network.module.get_submodule(name).register_forward_pre_hook(
                lambda _module, given: seen.update(onto=given[0].flatten(0, 1).double().numpy())
            ),
            part.register_forward_hook(
                lambda _module, given, gave: seen.update(
                    inputs=given[0].flatten(0, 1).double().numpy(), gave=gave.flatten(0, 1).double().numpy()
                )
            ),
        ]
        network(batch.ids.numpy())
        for hook in hooks:
            hook.remove()
        bias = 0.0 if part.bias is None else part.bias.detach().double().numpy()
        weight = part.weight.detach().double().numpy()
        return seen["onto"], seen["inputs"], seen["gave"] - bias, weight if family == "llama" else weight.T

    onto, inputs, _, made = read(found.artifact.path, f"{layer}.1")
    exact_onto, _, given, weight = read(found.directory, f"{layer}.1")
    wanted = given + exact_onto - onto
    strength = np.sqrt(damp * np.square(inputs).sum() / inputs.shape[1])
    system = np.vstack([inputs, strength * np.eye(inputs.shape[1])])
    expected = np.linalg.lstsq(system, np.vstack([wanted, strength * weight.T]), rcond=None)[0].T
    assert np.abs(expected - weight).max() > 20 * np.abs(expected - made).max()
    np.testing.assert_allclose(made, expected, rtol=1e-2, atol=1e-3)
    # Nothing is gone in front of the first one.
    *_, first = read(found.artifact.path, f"{layer}.0")
    *_, first_before = read(found.directory, f"{layer}.0")
    np.testing.assert_array_equal(first, first_before)
