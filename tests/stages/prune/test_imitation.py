"""Features trained by themselves: steps as Adam takes them, rows as they lie, nearer to what is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import outputs_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STAGE = "prune.structured"
ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu"]


def draw(seed: int, *shape: int) -> Any:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def features(activation: str, *, gated: bool) -> Any:
    from ingot.stages.prune.imitation import Features

    return Features(
        draw(1, 6, 4), draw(2, 3, 6), activation, draw(3, 6, 4) if gated else None, draw(4, 6),
        draw(5, 6) if gated else None,
    )  # fmt: skip


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_compute_what_the_formula_says(activation: str, gated: bool) -> None:
    from math import erf

    found, rows = features(activation, gated=gated), draw(6, 7, 4).double().numpy()
    kinds: dict[str, Callable[[Any], Any]] = {
        "silu": lambda x: x / (1 + np.exp(-x)),
        "gelu": lambda x: x * (1 + np.vectorize(erf)(x / 2**0.5)) / 2,
        "gelu_tanh": lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
        "relu": lambda x: np.maximum(x, 0),
    }
    opened = rows @ found.up.double().numpy().T + found.up_bias.double().numpy()
    active = kinds[activation](opened)
    if gated:
        gate = rows @ found.gate.double().numpy().T + found.gate_bias.double().numpy()
        active = kinds[activation](gate) * opened
    expected = active @ found.down.double().numpy().T
    np.testing.assert_allclose(found.given(draw(6, 7, 4)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_first_step_goes_down_the_slope_by_the_rate_that_the_weights_size_asks_for() -> None:
    """Adam's first step is the rate times the sign of the gradient, whatever its size (arXiv:1412.6980)."""
    import torch
    from ingot.stages.prune.imitation import RATE, WARM_UP, Rows, imitate

    before = features("silu", gated=True)
    read, wanted = draw(7, 20, 4), draw(8, 20, 3)
    after = imitate(before, Rows([read], [wanted]), torch.arange(20), 1, seed=0)

    def error(maps: list[np.ndarray]) -> float:
        down, up, gate = maps
        x = read.double().numpy()
        opened = x @ up.T + before.up_bias.double().numpy()
        held = x @ gate.T + before.gate_bias.double().numpy()
        return float(np.square(held / (1 + np.exp(-held)) * opened @ down.T - wanted.double().numpy()).sum())

    plain = [each.double().numpy() for each in before.maps]
    for place, (old, new) in enumerate(zip(before.maps, after.maps, strict=True)):
        rate = RATE * float(old.square().mean().sqrt()) / old.shape[1] ** 0.5 / WARM_UP
        for entry in np.ndindex(*old.shape):
            slopes = []
            for sign in (1, -1):
                moved = [each.copy() for each in plain]
                moved[place][entry] += sign * 1e-5
                slopes.append(error(moved))
            expected = -rate * np.sign(slopes[0] - slopes[1])
            assert float(new[entry] - old[entry]) == pytest.approx(expected, rel=2e-2, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6), data=st.data())
def test_rows_are_those_of_the_batches_side_by_side(lengths: list[int], data: st.DataObject) -> None:
    import torch
    from ingot.stages.prune.imitation import Rows

    if not sum(lengths):
        lengths = [3]
    which = data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1, max_size=9, unique=True))
    inputs, targets = draw(1, sum(lengths), 2), draw(2, sum(lengths), 3)
    rows = Rows(inputs.split(lengths), targets.split(lengths))
    assert rows.count == sum(lengths)
    read, wanted = rows.at(torch.tensor(which))
    assert torch.equal(read, inputs[which])
    assert torch.equal(wanted, targets[which])


def test_features_that_give_what_is_wanted_already_stay_as_they_are() -> None:
    import torch
    from ingot.stages.prune.imitation import Rows, imitate

    whole, read = features("silu", gated=True), draw(9, 64, 4)
    after = imitate(whole, Rows([read], [whole.given(read)]), torch.arange(64), 1, seed=0)
    for old, new in zip(whole.maps, after.maps, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-4)


def test_half_of_the_features_learn_what_least_squares_cannot_give_them() -> None:
    """Of pairs of features that are one feature each, either of a pair can do the work of both."""
    import torch
    from ingot.stages.prune.imitation import Features, Rows, imitate

    up, gate, down, read = draw(1, 16, 8), draw(2, 16, 8), draw(3, 8, 16), draw(4, 8192, 8)
    wanted = Features(up, down, "silu", gate).given(read)
    rough = Features(up[:8] + 0.3 * draw(5, 8, 8), down[:, :8], "silu", gate[:8] + 0.3 * draw(6, 8, 8))
    best = torch.linalg.lstsq(rough.active(read), wanted).solution.T
    fitted = Features(rough.up, best, "silu", rough.gate)
    rows, which = Rows([read], [wanted]), torch.arange(8192)
    after = imitate(fitted, rows, which, 8, seed=0)
    assert after.error(rows, which) < 0.7 * fitted.error(rows, which)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2", "bert", "t5", "qwen2_moe"])
def test_trained_features_bring_the_network_nearer_to_what_it_was(
    family: str, prune: Any, calibration: Path, tmp_path: Path
) -> None:
    words = calibration.read_text("utf-8").split()
    drawn = np.random.default_rng(0).choice(words, 6000)
    text = tmp_path / "long.txt"
    text.write_text("\n".join(" ".join(line) for line in drawn.reshape(-1, 40)), "utf-8")
    given = {"ffn": 0.5, "calibration": str(text), "samples": 128}
    fitted, trained = (prune(family, STAGE, feature_epochs=epochs, **given) for epochs in (0, 3))
    paths = (fitted.directory, fitted.artifact.path, trained.artifact.path)
    exact, far, near = outputs_on(text, *paths)
    assert np.linalg.norm(near - exact) < np.linalg.norm(far - exact)
    told = trained.observed["tensors"]
    learned = {name: each["error_of_trained"] for name, each in told.items() if "error_of_trained" in each}
    assert any(error < 1 for error in learned.values())
    assert all(error <= 1 for error in learned.values())


def test_training_that_makes_it_worse_leaves_features_as_they_were(
    prune: Any, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.stages.prune import imitation

    fitted = prune("llama", STAGE, ffn=0.5, feature_epochs=0)
    monkeypatch.setattr(imitation, "RATE", 400.0)
    refused = prune("llama", STAGE, ffn=0.5, feature_epochs=1)
    told = refused.observed["tensors"]
    layers = refused.before.architecture.layers
    for form in (form for layer in layers for form in layer.feed_forward.blocks):
        assert told[form.down.name]["error_of_trained"] == 1.0
        for entry in form.linears[:-1]:
            rows = {row.tobytes() for row in refused.before.tensors.float32(entry.name)}
            assert all(row.tobytes() in rows for row in refused.weight(entry.name))
    exact, same, other = outputs_on(
        calibration, fitted.directory, fitted.artifact.path, refused.artifact.path
    )
    # Those that chose were a part of the text; what takes them up is fitted to all of it either way.
    assert np.linalg.norm(other - exact) < 1.05 * np.linalg.norm(same - exact)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    needed=st.integers(1, 100),
    data=st.data(),
)
def test_the_part_that_chooses_has_the_rows_it_needs_of_those_that_are_trained_on(
    lengths: list[int], needed: int, data: st.DataObject
) -> None:
    from ingot.stages.prune.features import part_of

    lengths = [lengths[0]] * len(lengths)
    seen = data.draw(st.integers(1, sum(lengths)))
    places = part_of(lengths, needed, seen)
    whole = [place for place in range(len(lengths)) if sum(lengths[: place + 1]) <= seen]
    assert set(places) <= set(whole or range(len(lengths)))
    assert sum(lengths[place] for place in places) >= min(needed, sum(lengths[place] for place in whole))


@pytest.mark.parametrize("gated", [False, True])
def test_some_of_the_features_give_what_the_others_left_out_do_not(gated: bool) -> None:
    import torch

    whole, rows, which = features("gelu", gated=gated), draw(6, 7, 4), torch.tensor([0, 2, 5])
    torch.testing.assert_close(
        whole.some(which, whole.down[:, which]).active(rows), whole.active(rows)[:, which]
    )
