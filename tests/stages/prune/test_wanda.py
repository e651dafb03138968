"""`prune.wanda`: scores by hand, inputs as transformers computes them, and what it writes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

STAGE = "prune.wanda"


def test_scores_worked_by_hand() -> None:
    import torch
    from ingot.stages.model.calibration.masks import least_of_groups
    from ingot.stages.prune.wanda_method import scores

    weight = torch.tensor([[4.0, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]])
    norms = torch.tensor([1.0, 2, 8, 3])
    found = scores(weight, norms)
    assert found.tolist() == [[4, 0, 8, 3], [3, 4, 8, 9], [3, 2, 0, 6]]
    pruned = weight.masked_fill(least_of_groups(found, 0, 0.5), 0.0)
    assert pruned.tolist() == [[4, 0, 1, 0], [0, 0, -1, -3], [-3, 0, 0, 2]]


@pytest.mark.parametrize("place", ["0.self_attn.q_proj", "1.self_attn.o_proj", "1.mlp.down_proj"])
def test_every_layer_goes_by_the_inputs_that_transformers_computes_in_the_whole_network(
    place: str, prune: Any, calibration: Any
) -> None:
    import torch
    import transformers
    from ingot.stages.model.calibration.samples import take

    found, name = prune("llama", STAGE, compute_dtype="float32"), f"model.layers.{place}"
    model = transformers.AutoModelForCausalLM.from_pretrained(found.directory)
    before = found.before.tensors.float32(f"{name}.weight")
    squares = torch.zeros(before.shape[1], dtype=torch.float64)

    def see(_module: Any, given: Any) -> None:
        squares.add_(given[0].double().square().flatten(0, 1).sum(0))

    hook = model.get_submodule(name).register_forward_pre_hook(see)
    with torch.inference_mode():
        for batch in take(calibration, found.directory, found.before.architecture, 64, 16).batches:
            model(batch.ids)
    hook.remove()
    score = np.abs(before) * squares.sqrt().numpy()
    half = before.shape[1] // 2
    middle = np.sort(score, axis=1)[:, half - 1 : half]
    after = found.weight(f"{name}.weight")
    # Scores that are as good as equal may come out either way.
    apart = np.abs(score - middle) > 1e-5 * middle
    apart |= score == middle
    assert np.array_equal((after == 0)[apart], (score <= middle)[apart])
    assert np.array_equal(after[after != 0], before[after != 0])


def test_what_is_pruned_before_a_layer_does_not_change_its_scores(prune: Any) -> None:
    whole = prune("llama", STAGE, sparsity=0.8)
    last = prune("llama", STAGE, sparsity=0.8, only=["*.1.*"])
    name, first = "model.layers.1.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight"
    assert np.array_equal(whole.weight(name), last.weight(name))
    assert np.array_equal(last.weight(first), last.before.tensors.float32(first))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert", "mixtral"])
@pytest.mark.parametrize("pattern", ["2:4", None])
def test_every_row_or_group_keeps_its_share_and_what_stays_is_as_it_was(
    family: str, pattern: str | None, prune: Any
) -> None:
    found = prune(family, STAGE, pattern=pattern)
    for linear in found.before.architecture.linears:
        if linear.layer is None:
            assert linear.name not in found.tensors
            continue
        before = found.before.tensors.float32(linear.name)
        before = before.T if linear.stored_in_out else before
        after = found.weight(linear.name)
        stays = after != 0
        assert np.array_equal(after[stays], before[stays])
        if found.tensors[linear.name]["fallback"] is None:
            groups = stays.reshape(-1, 4) if pattern else stays
            assert (groups.sum(1) == groups.shape[1] // 2).all()
        assert found.tensors[linear.name]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    json.dumps(found.observed, allow_nan=False)
    assert found.artifact.facts["sparsity"] == pytest.approx(0.5, abs=1e-4)
