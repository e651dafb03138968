"""`prune.sparsegpt` on checkpoints of all kinds: better than magnitude, repeatable, resumable, clear."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import DataError, RecipeError
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "prune.sparsegpt"


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert", "mixtral"])
@pytest.mark.parametrize("pattern", ["2:4", "4:8", None])
def test_no_weight_loses_more_than_by_magnitude(family: str, pattern: str | None, prune: Any) -> None:
    found = prune(family, STAGE, pattern=pattern)
    names = [linear.name for linear in found.before.architecture.linears if linear.layer is not None]
    assert sorted(found.tensors) == sorted(names)
    for name, entry in found.tensors.items():
        assert entry["weighted_error"] <= entry["magnitude_weighted_error"] * (1 + 1e-6), name
        assert entry["method"] == ("magnitude" if entry["fallback"] else "sparsegpt")
        assert entry["sparsity"] == pytest.approx(0.5, abs=1e-3)
        if pattern:
            groups = found.weight(name).reshape(-1, int(pattern[-1]))
            assert ((groups != 0).sum(1) <= int(pattern[-1]) // 2).all()
    total = sum(entry["weighted_error"] for entry in found.tensors.values())
    assert total < 0.9 * sum(entry["magnitude_weighted_error"] for entry in found.tensors.values())


def test_the_network_computes_more_nearly_what_it_did_than_after_magnitude(
    prune: Any, calibration: Path
) -> None:
    import torch
    from ingot.stages.model.calibration.samples import take
    from ingot.stages.model.torch_network import Network

    def logits(directory: Path, found: Any) -> np.ndarray:
        network = Network(directory, found.before.architecture.task)
        batches = take(calibration, found.directory, found.before.architecture, 64, 16).batches
        return np.concatenate([np.asarray(network(batch.ids.numpy())).reshape(-1) for batch in batches])

    found = prune("llama", STAGE, pattern="2:4")
    plain = prune("llama", "prune.magnitude", pattern="2:4")
    with torch.inference_mode():
        exact, ours, theirs = (
            logits(path, found) for path in (found.directory, found.artifact.path, plain.artifact.path)
        )
    assert np.linalg.norm(ours - exact) < 0.9 * np.linalg.norm(theirs - exact)


def test_threads_and_spilling_change_no_byte(prune: Any) -> None:
    digests = {
        prune("mixtral", STAGE, threads=threads, activation_budget_mb=budget).artifact.digest
        for threads, budget in ((1, 1024), (3, 1024), (2, 0))
    }
    assert len(digests) == 1


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_run_goes_on_at_its_block_and_gives_the_same_bytes(prune: Any, tmp_path: Path) -> None:
    whole = prune("llama", STAGE)

    def die(_done: int, _total: int, what: str) -> None:
        if what == "layers.1":
            raise Killed

    with pytest.raises(Killed):
        prune("llama", STAGE, tmp_path / "job", progress=die)
    seen: list[str] = []
    again = prune("llama", STAGE, tmp_path / "job", progress=lambda d, t, what: seen.append(what))
    assert "layers.0" not in seen
    assert again.artifact.digest == whole.artifact.digest
    assert again.tensors.keys() == whole.tensors.keys()


def test_what_is_ignored_stays_bit_equal_and_overrides_are_taken(prune: Any) -> None:
    found = prune(
        "llama", STAGE, ignore=["*.down_proj.weight"], overrides={"*.v_proj.weight": {"sparsity": 0.25}}
    )
    before = load_file(found.directory / "model.safetensors")
    after = load_file(found.artifact.path / "model.safetensors")
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == before.keys() - set(found.tensors)
    assert {"lm_head.weight", "model.layers.0.mlp.down_proj.weight"} <= same
    assert found.tensors["model.layers.1.self_attn.v_proj.weight"]["sparsity"] == 0.25
    assert found.tensors["model.layers.1.self_attn.q_proj.weight"]["sparsity"] == 0.5


def test_pruning_what_was_pruned_keeps_its_zeros(prune: Any) -> None:
    first = prune("llama", "prune.magnitude", sparsity=0.4)
    again = prune(first.artifact.path, STAGE, sparsity=0.6)
    for name in again.tensors:
        gone = first.weight(name) == 0
        assert (again.weight(name)[gone] == 0).all()
    assert again.artifact.facts["sparsity"] == pytest.approx(0.6, abs=0.01)


def test_a_bfloat16_checkpoint_is_pruned_to_values_that_it_holds(prune: Any, tiny_checkpoint: Any) -> None:
    found = prune(tiny_checkpoint("llama", "bfloat16"), STAGE, pattern="2:4")
    for name in found.tensors:
        assert found.after.tensors.info(name).dtype == "BF16"
        assert found.tensors[name]["sparsity"] == 0.5


def test_an_expert_that_no_token_chose_is_pruned_by_magnitude_and_noted(
    prune: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint("mixtral"), source)
    weights = load_file(source / "model.safetensors")
    router = "model.layers.0.block_sparse_moe.gate.weight"
    weights[router] = np.zeros_like(weights[router])
    # Where all logits are equal, the first two experts of four are chosen for every token.
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    found = prune(source, STAGE)
    lone = [name for name, entry in found.tensors.items() if "no token" in (entry["fallback"] or "")]
    assert len(lone) == 2 * 3
    assert found.artifact.facts["fallbacks"] >= len(lone)
    assert any("pruned by magnitude, since no token" in note for note in found.notes)
    json.dumps(found.observed, allow_nan=False)


def test_a_text_of_no_window_and_a_pattern_that_matches_nothing_are_refused(
    prune: Any, tmp_path: Path
) -> None:
    empty = tmp_path / "short.txt"
    empty.write_text("The river.")
    with pytest.raises(DataError, match="fewer than one window"):
        prune("llama", STAGE, calibration=str(empty))
    with pytest.raises(RecipeError, match="matches no weight"):
        prune("llama", STAGE, only=["*.nothing"])
