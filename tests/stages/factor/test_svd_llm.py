"""`factor.svd_llm` on tiny checkpoints: ranks, errors as inputs weigh them, and what is refused."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError
from ingot.stages.factor import visitor

if TYPE_CHECKING:
    from pathlib import Path


def lost(before: Path, after: Path, text: Path) -> float:
    """Mean squared difference of the outputs on a text."""
    from ingot.stages.model.tokens import load_tokenizer
    from ingot.stages.model.torch_network import Network

    ids = np.array(load_tokenizer(before).encode(text.read_text()).ids[: 16 * 64]).reshape(16, 64)
    return float(((Network(before, "causal-lm")(ids) - Network(after, "causal-lm")(ids)) ** 2).mean())


def walked(text: Path, samples: int, **params: object) -> dict[str, object]:
    """Parameters of a walk in float32."""
    return {"calibration": str(text), "samples": samples, "window": 64, "compute_dtype": "float32", **params}


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "bert", "t5"])
def test_weights_of_every_family_are_walked_and_get_the_ranks_that_their_shapes_give(
    family: str, tiny_checkpoint: Any, run_stage: Any, calibration: Path
) -> None:
    from ingot.stages.model.checkpoint import Checkpoint

    directory = tiny_checkpoint(family)
    made = run_stage("factor.svd_llm", {"model": directory}, **walked(calibration, 6, ratio=0.8))
    plain = run_stage("factor.svd", {"model": directory}, ratio=0.8)
    assert made.facts["rank_by_weight"] == plain.facts["rank_by_weight"]
    assert Checkpoint.open(made.path).architecture.linears == Checkpoint.open(plain.path).architecture.linears


def test_less_is_lost_than_without_regard_to_inputs(
    tiny_checkpoint: Any, run_stage: Any, calibration: Path
) -> None:
    directory = tiny_checkpoint("llama")
    given = walked(calibration, 16)
    plain = lost(directory, run_stage("factor.svd", {"model": directory}, ratio=0.8).path, calibration)
    aware = lost(
        directory, run_stage("factor.svd_llm", {"model": directory}, ratio=0.8, **given).path, calibration
    )
    assert aware < 0.9 * plain


def test_a_later_layer_sees_what_factored_ones_before_it_give(
    tiny_checkpoint: Any, run_stage: Any, calibration: Path, tmp_path: Path
) -> None:
    """The second layer, factored after the first, is as if the first had been factored by another run."""
    from ingot.stages.model.checkpoint import Checkpoint

    directory = tiny_checkpoint("qwen2")
    given = walked(calibration, 8, ratio=0.7, error_correction=False)
    once = run_stage("factor.svd_llm", {"model": directory}, **given)
    first = run_stage("factor.svd_llm", {"model": directory}, only=("*.layers.0.*",), **given)
    twice = run_stage("factor.svd_llm", {"model": first}, only=("*.layers.1.*",), **given)
    one, other = (Checkpoint.open(each.path) for each in (once, twice))
    assert sorted(one.tensors.names()) == sorted(other.tensors.names())
    for name in one.tensors.names():
        np.testing.assert_allclose(
            one.tensors.float32(name), other.tensors.float32(name), rtol=2e-2, atol=2e-3
        )


def test_energy_and_budget_give_weights_ranks_of_their_own(
    tiny_checkpoint: Any, run_stage: Any, calibration: Path
) -> None:
    directory, notes = tiny_checkpoint("llama"), []
    given = walked(calibration, 8)
    budget = run_stage("factor.svd_llm", {"model": directory}, notes=notes, budget=0.7, **given)
    assert 0.6 < budget.facts["kept"] <= 0.7
    ranks = budget.facts["rank_by_weight"]
    assert len(set(ranks.values())) > 2
    whole = [name for name, rank in ranks.items() if rank is None]
    assert any("stay whole, where the budget is spent best" in note for note in notes) is bool(whole)
    energy = run_stage("factor.svd_llm", {"model": directory}, energy=0.9, **given)
    assert set(energy.facts["rank_by_weight"]) == set(ranks)


def test_error_correction_aims_at_the_original_network(
    tiny_checkpoint: Any, run_stage: Any, calibration: Path
) -> None:
    directory = tiny_checkpoint("llama")
    given = walked(calibration, 32, ratio=0.8, error_correction=False)
    plain = lost(directory, run_stage("factor.svd_llm", {"model": directory}, **given).path, calibration)
    made = run_stage("factor.svd_llm", {"model": directory}, **{**given, "error_correction": True})
    assert lost(directory, made.path, calibration) < plain


def test_threads_change_nothing(tiny_checkpoint: Any, run_stage: Any, calibration: Path) -> None:
    given = walked(calibration, 8, ratio=0.8)
    one, two = (
        run_stage("factor.svd_llm", {"model": tiny_checkpoint("llama")}, threads=threads, **given)
        for threads in (1, 3)
    )
    assert one.digest == two.digest


def test_bad_requests_are_refused(tiny_checkpoint: Any, run_stage: Any) -> None:
    directory = tiny_checkpoint("llama")
    for params, message in (
        ({"ratio": 1.0}, r"factor.ratio: 1.0 is not above 0 and below 1"),
        ({"ratio": 0.5, "energy": 0.9}, r"ratio and energy are 2 ways"),
        ({"only": ("*.nope",)}, r"factor.only: '\*.nope' matches no weight"),
        ({"ignore": ("*",)}, r"no weight would be factored"),
        ({"multiple_of": 256}, r"no weight would become smaller"),
        ({"energy": 0.9999, "only": ("*.q_proj.weight",)}, r"no weight would become smaller"),
    ):
        with pytest.raises(RecipeError, match=message):
            run_stage("factor.svd", {"model": directory}, **params)


def test_a_weight_that_is_factored_already_is_left_alone(tiny_checkpoint: Any, run_stage: Any) -> None:
    first = run_stage("factor.svd", {"model": tiny_checkpoint("llama")}, ratio=0.5, only=("*.mlp.*",))
    second = run_stage("factor.svd", {"model": first}, ratio=0.5)
    assert set(second.facts["rank_by_weight"]) == {
        f"model.layers.{layer}.self_attn.{role}_proj.weight" for layer in (0, 1) for role in "qkvo"
    }
    with pytest.raises(RecipeError, match="no weight would be factored"):
        run_stage("factor.svd", {"model": second}, ratio=0.5)


def test_time_is_counted_once_also_where_weights_share_their_inputs(
    tiny_checkpoint: Any, run_stage: Any, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(visitor.time, "process_time", lambda: float(next(clock)))
    seen: dict[str, Any] = {}
    inputs = {"model": tiny_checkpoint("llama")}
    run_stage("factor.svd_llm", inputs, observed=seen, **walked(calibration, 4))
    seconds = {name: each["cpu_seconds"] for name, each in seen["tensors"].items()}
    # A tick for what a stop does once, and one for each of its weights: three read the attention's input.
    maps = "qkv"
    assert {seconds[f"model.layers.0.self_attn.{each}_proj.weight"] for each in maps} == {round(4 / 3, 4)}
    assert seconds["model.layers.0.mlp.down_proj.weight"] == 2
