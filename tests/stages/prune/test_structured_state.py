"""`prune.structured` of the state and of experts, and by gradients."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError
from ingot.stages.model.calibration.samples import take
from ingot.stages.model.channels import groups
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.torch_network import Network
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "prune.structured"
IDS = np.array([[5, 17, 200, 31, 44, 90, 123, 7, 260, 311, 64, 12]])
SOURCES = np.array([[9, 41, 300, 77, 150, 26]])
NARROWABLE = [
    "llama", "llama-tied", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mixtral", "qwen2_moe",
    "qwen3_moe", "t5",
]  # fmt: skip


def outputs(directory: Path, task: str) -> np.ndarray:
    """What transformers computes with a checkpoint, all of whose weights it found, in their shapes."""
    return Network(directory, task)(IDS, SOURCES if task == "seq2seq-lm" else None)


def changed(source: Path, target: Path, change: Any) -> Path:
    """A copy of a checkpoint whose tensors were changed in place."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("scoring", ["activation", "weight"])
@pytest.mark.parametrize("family", NARROWABLE)
def test_features_of_the_state_that_are_zero_go_and_nothing_changes(
    family: str, scoring: str, prune: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    model = Checkpoint.open(directory).architecture
    (group,) = groups(model, "hidden")
    readers = {linear.name for linear in (*group.readers, *model.gates)}
    gone = np.arange(1, model.hidden, 4)

    def silence(weights: dict[str, np.ndarray]) -> None:
        for span in group.spans:
            if span.tensor not in readers and "norm" not in span.tensor:
                np.moveaxis(weights[span.tensor], span.axis, 0)[gone] = 0.0

    source = changed(directory, tmp_path / "silenced", silence)
    found = prune(source, STAGE, hidden=0.25, scoring=scoring, refit=False)
    assert found.after.architecture.hidden == 48
    assert found.after.architecture.head_dim == model.head_dim
    expected = outputs(source, model.task)
    np.testing.assert_allclose(outputs(found.artifact.path, model.task), expected, rtol=2e-4, atol=5e-4)


def test_gains_make_up_for_what_the_state_loses(prune: Any, calibration: Path) -> None:
    found = prune("llama", STAGE, hidden=0.25)
    model = found.before.architecture
    ids = take(calibration, found.directory, model, 64, 16).batches[0].ids.numpy()
    exact, ours = (Network(path, model.task)(ids) for path in (found.directory, found.artifact.path))
    assert all(entry["weighted_error"] <= entry["cut_weighted_error"] for entry in found.tensors.values())
    chance = prune("llama", STAGE, hidden=0.25, scoring="random", refit=False)
    theirs = Network(chance.artifact.path, model.task)(ids)
    assert np.linalg.norm(ours - exact) < 0.8 * np.linalg.norm(theirs - exact)


@pytest.mark.parametrize("family", ["gpt2", "bert", "opt", "gpt_neox", "phi"])
def test_a_state_whose_mean_is_taken_away_stays_whole(family: str, prune: Any) -> None:
    with pytest.raises(RecipeError, match="take the mean over all features away"):
        prune(family, STAGE, hidden=0.25)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("scoring", ["activation", "taylor"])
def test_an_expert_that_is_never_chosen_goes_and_nothing_changes(
    family: str, scoring: str, prune: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    model = Checkpoint.open(directory).architecture
    mixtures = groups(model, "experts")
    routers = [group.spans[0].tensor for group in mixtures]

    def shun(weights: dict[str, np.ndarray]) -> None:
        # Where the first feature of the state is a large constant, a row that reads it alone decides.
        weights["model.embed_tokens.weight"][:, 0] = 8.0
        for name, value in weights.items():
            if name.endswith(("o_proj.weight", "down_proj.weight", "w2.weight")):
                value[0] = 0.0
        for layer, name in enumerate(routers):
            weights[f"model.layers.{layer}.post_attention_layernorm.weight"][0] = 1.0
            weights[name][1] = 0.0
            weights[name][1, 0] = -80.0

    source = changed(directory, tmp_path / "shunned", shun)
    found = prune(source, STAGE, experts=1, scoring=scoring)
    count = len(mixtures[0].members)
    assert [entry["after"] for entry in found.artifact.facts["widths"]] == [count - 1] * len(mixtures)
    stated = {found.after.config.get(key) for key in ("num_experts", "num_local_experts")}
    assert stated - {None} == {count - 1}
    old, new = (load_file(path / "model.safetensors") for path in (source, found.artifact.path))
    for group in mixtures:
        # Another expert that the text never comes to may go in its place.
        before = [row.tobytes() for row in old[group.spans[0].tensor]]
        kept = [before.index(row.tobytes()) for row in new[group.spans[0].tensor]]
        assert len(set(kept)) == count - 1
        for place, channel in enumerate(kept):
            for name, origin in zip(group.members[place], group.members[channel], strict=True):
                np.testing.assert_array_equal(new[name], old[origin])
    np.testing.assert_allclose(
        outputs(found.artifact.path, model.task), outputs(source, model.task), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("family", "params", "said"),
    [
        ("llama", {"experts": 1}, "llama has no mixture of experts"),
        ("mixtral", {"experts": 3}, "1 experts would stay, and each token goes through 2"),
        ("llama", {"hidden": 2}, "heads, and transformers refuses a llama whose hidden size, 62"),
        ("llama", {"hidden": 0.999}, None),
    ],
)
def test_what_cannot_go_is_refused(family: str, params: dict[str, Any], said: str | None, prune: Any) -> None:
    if said is None:
        assert prune(family, STAGE, **params).after.architecture.hidden == 8
        return
    with pytest.raises(RecipeError, match=said):
        prune(family, STAGE, **params)


def test_everything_at_once_loads(prune: Any) -> None:
    found = prune("mixtral", STAGE, experts=1, hidden=0.25, heads=0.5, ffn=0.5, layers=1)
    model = found.after.architecture
    assert (model.hidden, model.heads, len(model.layers)) == (48, 2, 1)
    assert np.isfinite(outputs(found.artifact.path, model.task)).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_gradient_of_a_gate_is_that_of_automatic_differentiation(
    family: str, tiny_checkpoint: Any, calibration: Path, tmp_path: Path
) -> None:
    import torch
    from ingot.stages.model.calibration.gates import gate_squares
    from ingot.stages.model.calibration.shelf import Shelf

    directory = tiny_checkpoint(family)
    source = Checkpoint.open(directory)
    model = source.architecture
    batches = take(calibration, directory, model, 32, 3).batches
    found = gate_squares(
        model, source.tensors, groups(model, "ffn"), batches, Shelf(1 << 30, tmp_path),
        torch.device("cpu"), 1, 0, lambda *_: None,
    )  # fmt: skip
    network = Network(directory, model.task).module
    path = "model.layers.{}.mlp.down_proj" if family == "llama" else "transformer.h.{}.mlp.c_proj"
    expected = [torch.zeros(group.count) for group in groups(model, "ffn")]
    windows = 0
    for ids in (batch.ids[place : place + 1] for batch in batches for place in range(len(batch.ids))):
        gates = [torch.ones(len(each), requires_grad=True) for each in expected]
        hooks = [
            network.get_submodule(path.format(layer)).register_forward_pre_hook(
                lambda _module, given, gate=gate: (given[0] * gate,)
            )
            for layer, gate in enumerate(gates)
        ]
        logits = network(ids).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").backward()
        for hook in hooks:
            hook.remove()
        expected = [each + gate.grad.square() for each, gate in zip(expected, gates, strict=True)]
        windows += 1
    for group, each in zip(groups(model, "ffn"), expected, strict=True):
        torch.testing.assert_close(found[group.label], each / windows, rtol=1e-3, atol=1e-4)
