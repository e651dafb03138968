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


def test_the_first_layer_goes_by_the_inputs_that_transformers_computes(prune: Any, calibration: Any) -> None:
    import torch
    import transformers
    from ingot.stages.model.calibration.samples import take

    found = prune("llama", STAGE, compute_dtype="float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(found.directory)
    squares, name = torch.zeros(64, dtype=torch.float64), "model.layers.0.self_attn.q_proj"

    def see(_module: Any, given: Any) -> None:
        squares.add_(given[0].double().square().flatten(0, 1).sum(0))

    hook = model.get_submodule(name).register_forward_pre_hook(see)
    with torch.inference_mode():
        for batch in take(calibration, found.directory, found.before.architecture, 64, 16).batches:
            model(batch.ids)
    hook.remove()
    before = found.before.tensors.float32(f"{name}.weight")
    score = np.abs(before) * squares.sqrt().numpy()
    middle = np.sort(score, axis=1)[:, 31:32]
    after = found.weight(f"{name}.weight")
    assert np.array_equal(after == 0, score <= middle)
    assert np.array_equal(after[after != 0], before[after != 0])


def test_later_layers_are_scored_by_what_pruned_ones_give(prune: Any) -> None:
    whole = prune("llama", STAGE, sparsity=0.8)
    last = prune("llama", STAGE, sparsity=0.8, only=["*.1.*"])
    name = "model.layers.1.mlp.down_proj.weight"
    assert (whole.weight(name) == 0).sum() == (last.weight(name) == 0).sum()
    assert not np.array_equal(whole.weight(name), last.weight(name))
    first = "model.layers.0.mlp.down_proj.weight"
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
