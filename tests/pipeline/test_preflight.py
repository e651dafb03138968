"""Inputs that will not do are refused by the plan, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ingot
import pytest
from ingot.artifacts.errors import InputError
from ingot.pipeline import preflight
from ingot.pipeline.plan import State

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def planned(tiny_checkpoint: Any, tmp_path: Path) -> Any:
    """``(*families) -> Plan``: of a linear merge with the first family's checkpoint."""

    def plan(*families: str) -> ingot.Plan:
        first, *others = (tiny_checkpoint(family) for family in families)
        models = ", ".join(f"{{model: {name}, weight: 1}}" for name in ("load", *others))
        path = tmp_path / "ingot.yaml"
        path.write_text(
            f"model: {first}\ntargets: [cpu-fp32]\nstages:\n  merge: {{method: linear, models: [{models}]}}\n"
        )
        return ingot.plan(path, store=tmp_path / "store")

    return plan


def test_models_of_two_architectures_are_refused_by_the_plan(planned: Any) -> None:
    with pytest.raises(InputError, match=r"^merge: .*GPT2LMHeadModel, but .*LlamaForCausalLM"):
        planned("llama", "gpt2")


def test_a_file_of_mergekits_is_checked_too(tiny_checkpoint: Any, tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(
        f"merge_method: linear\nbase_model: {tiny_checkpoint('llama')}\nparameters: {{weight: 1}}\nmodels:\n"
        f"- model: {tiny_checkpoint('llama')}\n- model: {tiny_checkpoint('gpt2')}\n"
    )
    with pytest.raises(InputError, match=r"^merge: .*GPT2LMHeadModel, but"):
        ingot.plan(path, store=tmp_path / "store")


def test_a_search_is_checked_like_the_merge_that_it_makes(
    planned: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    (tmp_path / "choose.txt").write_text("the river ran past the old mill " * 60)
    path = tmp_path / "ingot.yaml"
    path.write_text(
        f"model: {tiny_checkpoint('llama')}\ntargets: [cpu-fp32]\ndata: {{selection: choose.txt}}\nstages:\n"
        "  merge:\n    method: search\n    algorithm: linear\n"
        f"    models: [{{model: load}}, {{model: {tiny_checkpoint('gpt2')}}}]\n"
    )
    with pytest.raises(InputError, match=r"^merge: .*GPT2LMHeadModel, but"):
        ingot.plan(path, store=tmp_path / "store")


def test_models_that_fit_wait_for_their_turn(planned: Any) -> None:
    assert planned("llama", "llama-tied").decisions["merge"].state is State.PENDING


def test_what_is_loaded_already_is_checked_where_the_store_has_it(
    tiny_checkpoint: Any, run_stage: Any, planned: Any
) -> None:
    plan = planned("llama", "llama-tied")
    node = plan.graph.nodes["merge"]
    made = {
        source: run_stage("load", {}, model=str(tiny_checkpoint("gpt2"))) for source in node.inputs.values()
    }
    made["load"] = run_stage("load", {}, model=str(tiny_checkpoint("llama")))
    with pytest.raises(InputError, match="GPT2LMHeadModel"):
        preflight.check_inputs(node, plan.graph, made)


def test_what_is_not_made_yet_is_not_checked(tiny_checkpoint: Any, tmp_path: Path) -> None:
    path = tmp_path / "ingot.yaml"
    path.write_text(
        f"model: {tiny_checkpoint('llama')}\ntargets: [cpu-fp32]\nstages:\n"
        "  prune: {method: magnitude, sparsity: 0.5}\n"
        "  merge:\n    method: linear\n    parameters: {weight: 1}\n"
        f"    models: [{{model: prune}}, {{model: {tiny_checkpoint('gpt2')}}}]\n"
    )
    plan = ingot.plan(path, store=tmp_path / "store")
    assert plan.decisions["merge"].state is State.PENDING


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{method: structured, heads: 1}", "prune.heads: 1 query heads are not whole groups, 2 of which"),
        ("{method: structured, heads: 4}", "prune.heads: 4 leaves none of 2 groups"),
        ("{method: layers, indices: [7]}", "prune.indices: there is no layer 7 in a model of 2 layers"),
        ('{method: wanda, ignore: ["*.nope"]}', "prune.ignore: '*.nope' matches no weight"),
        ("{method: magnitude, only: ['*.nope']}", "prune.only: '*.nope' matches no weight"),
    ],
)
def test_pruning_that_does_not_fit_its_model_is_refused_at_its_line(
    line: str, message: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    path = tmp_path / "ingot.yaml"
    path.write_text(f"model: {tiny_checkpoint('llama')}\nstages:\n  prune: {line}\ntargets: [cpu]\n")
    with pytest.raises(InputError) as caught:
        ingot.plan(path, store=tmp_path / "store")
    assert str(caught.value).startswith(message)
    assert caught.value.where == f"{path}:3"
