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
    from ingot.stages.prune.refit import fitted

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
