"""The walk shows every map the inputs that transformers computes for it, and goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import StageError

from .conftest import Recorder

if TYPE_CHECKING:
    from pathlib import Path

Run = Callable[..., Recorder]


def inputs_in_transformers(directory: Path, batches: Any) -> dict[str, Any]:
    """By weight name, what each linear module of the original network reads, over all batches."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    found: dict[str, list[Any]] = {}

    def hook(name: str) -> Any:
        return lambda _module, args: found.setdefault(name, []).append(args[0].reshape(-1, args[0].shape[-1]))

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(f"{name}.weight"))
    with torch.inference_mode():
        for batch in batches:
            model(input_ids=batch.ids)
    return {name: torch.cat(values) for name, values in found.items()}


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "gemma3_text"])
def test_maps_see_what_they_see_in_transformers(
    family: str, run_walk: Run, make_walk: Any, tiny_checkpoint: Any
) -> None:
    import torch

    expected = inputs_in_transformers(tiny_checkpoint(family), make_walk(family).batches)
    found = run_walk(family).seen
    for name, value in found.items():
        # GPT-NeoX's head has another name in transformers than in its files.
        name = name if name in expected else "lm_head.weight"
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_an_expert_sees_the_tokens_that_chose_it(run_walk: Run) -> None:
    seen = run_walk("mixtral").seen
    for layer in (0, 1):
        rows = [len(seen[f"model.layers.{layer}.block_sparse_moe.experts.{e}.w1.weight"]) for e in range(4)]
        assert sum(rows) == 2 * len(seen[f"model.layers.{layer}.self_attn.q_proj.weight"])


def test_inputs_follow_replaced_weights_and_exact_ones_do_not(run_walk: Run) -> None:
    import torch

    def halve(stop: Any) -> None:
        for linear in stop.linears:
            stop.tensors.replace(linear, stop.tensors.original(linear) * 0.5)

    plain = run_walk("llama")
    changed = run_walk("llama", compares=True, change=halve)
    first = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(changed.seen[first], plain.seen[first])
    for name, value in changed.exact.items():
        assert torch.equal(value, plain.seen[name])
    # v is half of itself before o is reached, and attention is linear in v.
    output = "model.layers.0.self_attn.o_proj.weight"
    assert not torch.allclose(changed.seen[output], plain.seen[output], rtol=1e-2)


def test_experts_are_not_compared_since_their_rows_differ(run_walk: Run) -> None:
    compared = run_walk("mixtral", compares=True).exact
    assert not any("experts" in name for name in compared)
    assert any("self_attn" in name for name in compared)


@pytest.mark.parametrize("family", ["llama", "t5", "mixtral"])
def test_results_do_not_depend_on_threads_or_on_spilling_to_disk(family: str, run_walk: Run) -> None:
    import torch

    plain = run_walk(family).seen
    for other in (run_walk(family, threads=3).seen, run_walk(family, budget=20_000).seen):
        assert plain.keys() == other.keys()
        assert all(torch.equal(plain[name], other[name]) for name in plain)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("compares", [False, True])
def test_a_killed_walk_goes_on_behind_its_last_step_with_the_same_numbers(
    family: str, compares: bool, make_walk: Any, tmp_path: Path
) -> None:
    import torch
    from ingot.stages.model.calibration.journal import Journal

    def shrink(stop: Any) -> None:
        for linear in stop.linears:
            stop.tensors.replace(linear, stop.tensors.original(linear) * 0.9)

    def start(recorder: Recorder, job: str) -> Journal:
        (tmp_path / job).mkdir(exist_ok=True)
        journal = Journal(tmp_path / job, "print")
        make_walk(family).run(recorder, journal, lambda done, total, what: None)
        return journal

    names = {linear.name for linear in make_walk(family).model.linears}
    whole = Recorder(names, compares, shrink)
    expected = start(whole, "whole")

    def die(stop: Any) -> None:
        shrink(stop)
        if len(killed.visits) > len(whole.visits) // 2:
            raise Killed

    killed = Recorder(names, compares, die)
    with pytest.raises(Killed):
        start(killed, "killed")
    again = Recorder(names, compares, shrink)
    journal = start(again, "killed")
    assert 0 < len(again.visits) < len(whole.visits)
    assert all(torch.equal(again.seen[name], whole.seen[name]) for name in again.seen)
    assert journal.evidence() == expected.evidence()
    for name in names:
        assert (journal.results().float32(name) == expected.results().float32(name)).all()


def test_only_what_leads_to_a_wanted_weight_is_computed(make_walk: Any, tmp_path: Path) -> None:
    from ingot.stages.model.calibration.journal import Journal

    walk, steps = make_walk("llama"), []
    recorder = Recorder({"model.layers.0.mlp.down_proj.weight"})
    walk.run(recorder, Journal(tmp_path, "print"), lambda done, total, what: steps.append(what))
    assert recorder.visits == ["model.layers.0.mlp.down_proj.weight"]
    assert steps == ["embedding", "layers.0", "calibrated"]


def test_inputs_that_are_not_finite_end_the_walk_with_the_name_of_the_map(
    run_walk: Run,
) -> None:
    def poison(stop: Any) -> None:
        if stop.linears[0].role == "q_proj":
            stop.tensors.replace(stop.linears[2], stop.tensors.original(stop.linears[2]).fill_(float("inf")))

    with pytest.raises(StageError, match=r"layers\.0: the input of .*o_proj\.weight is not finite"):
        run_walk("llama", change=poison)
