"""`merge.search`: it finds what is there to be found, writes that merge, and says what it tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.artifacts.errors import InputError, RecipeError, StageError
from ingot.artifacts.schema import build
from ingot.artifacts.store import Store
from ingot.stages import base
from ingot.stages.model.tokens import load_tokenizer
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingot.artifacts.manifest import Artifact

DEMO = Path(__file__).parents[3] / "pipeline" / "demo"
FEW = {"trials": 10, "samples": 2, "final_samples": 4, "finalists": 2, "window": 32}
PROSE, ODD = (
    "The river was first described by the expedition of the nineteenth century . " * 40,
    "a b c " * 300,
)


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A trained model, and the same with so much noise that it knows nothing."""
    import shutil

    good, bad = DEMO / "wikitext-llama-4m", tmp_path / "noise"
    shutil.copytree(good, bad)
    generator = torch.Generator().manual_seed(3)
    noisy = {
        name: value + 3 * value.float().std() * torch.randn(value.shape, generator=generator)
        if value.ndim == 2
        else value
        for name, value in load_file(good / "model.safetensors").items()
    }
    save_file(
        {name: value.to(torch.bfloat16) for name, value in noisy.items()},
        bad / "model.safetensors",
        {"format": "pt"},
    )
    return good, bad


@pytest.fixture
def searched(tmp_path: Path) -> Any:
    """``(values, *models, notes, job, threads) -> (artifact, observed)`` of `merge.search`."""
    store = Store.open(tmp_path / "store")
    for name, text in (("prose", PROSE), ("odd", ODD)):
        (tmp_path / f"{name}.txt").write_text(text)

    def run(
        values: Mapping[str, object],
        *models: Path,
        notes: list[str] | None = None,
        job: Path | None = None,
        threads: int = 1,
    ) -> Any:
        stage = base.get("merge.search")
        assert stage.expand is not None
        names = {
            "models": [{"model": str(each)} for each in models],
            "selection": [str(tmp_path / "prose.txt")],
        }
        expansion = stage.expand({**FEW, **names, **values}, tmp_path, str(models[0]))
        inputs = {
            name: carried_out(store, "load", {"model": source.name}, {}, tmp_path / "load")[0]
            for name, source in expansion.sources.items()
        }
        place = job or tmp_path / f"job{threads}"
        return carried_out(store, stage.name, expansion.values, inputs, place, notes, threads)

    return run


def carried_out(
    store: Store,
    name: str,
    params: Mapping[str, object],
    inputs: Mapping[str, Artifact],
    job: Path,
    notes: list[str] | None = None,
    threads: int = 1,
) -> tuple[Artifact, Mapping[str, Any]]:
    stage = base.get(name)
    job.mkdir(exist_ok=True)
    with store.outbox() as outbox:
        result = stage.run(
            base.Context(
                params=build(stage.params, params),
                inputs=inputs,
                output=outbox,
                job=job,
                seed=7,
                threads=threads,
                progress=lambda done, total, what: None,
                note=[].append if notes is None else notes.append,
            )
        )
        return outbox.publish(stage.output, result.facts), result.observed


def loss_of(directory: Path, text: str, windows: int) -> float:
    """The mean loss of windows of a text in transformers' network, spread as the stage spreads them."""
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = load_tokenizer(directory).encode(text).ids
    whole = [ids[at : at + 32] for at in range(0, len(ids) - 31, 32)]
    chosen = [whole[number * len(whole) // windows] for number in range(windows)]
    with torch.no_grad():
        return float(network(torch.tensor(chosen), labels=torch.tensor(chosen)).loss)


def test_it_leaves_the_noise_out_and_writes_the_merge_that_it_measured(searched: Any, models: Any) -> None:
    made, observed = searched({"algorithm": "linear"}, *models)
    weights = [each["value"] for each in made.facts["coefficients"]]
    assert weights[0] / sum(weights) > 0.8
    best = observed["search"]["best"]
    assert best["losses"][0] == pytest.approx(loss_of(made.path, PROSE, 4), rel=1e-5)
    alone, noise = (losses[0] for losses in observed["search"]["sources"].values())
    assert alone == pytest.approx(loss_of(models[0], PROSE, 4), rel=1e-5)
    assert best["losses"][0] < noise
    left, right = (load_file(each / "model.safetensors") for each in models)
    total = sum(weights)
    for name, value in load_file(made.path / "model.safetensors").items():
        expected = (weights[0] * left[name].double() + weights[1] * right[name].double()) / total
        assert (value.double() - expected).abs().max() <= 2.0**-8 * expected.abs().max(), name


def test_every_text_counts_the_same(searched: Any, models: Any, tmp_path: Path) -> None:
    texts = [str(tmp_path / "prose.txt"), str(tmp_path / "odd.txt")]
    _, observed = searched({"algorithm": "linear", "selection": texts}, *models)
    best, trials = observed["search"]["best"], observed["search"]["trials"]
    assert observed["search"]["texts"] == ["prose.txt", "odd.txt"]
    finals = [trial for trial in trials if trial["windows"] == 4]
    assert sum(best["losses"]) == min(sum(trial["losses"]) for trial in finals)


def test_threads_change_nothing_and_a_killed_search_goes_on(
    searched: Any, models: Any, tmp_path: Path
) -> None:
    one, first = searched({"algorithm": "linear"}, *models, job=tmp_path / "a")
    two, second = searched({"algorithm": "linear"}, *models, threads=2, job=tmp_path / "b")
    assert one.digest == two.digest
    assert first["search"] == second["search"]
    log = tmp_path / "a" / "trials.jsonl"
    log.write_text("\n".join(log.read_text().split("\n")[:6]))
    again, third = searched({"algorithm": "linear"}, *models, job=tmp_path / "a")
    assert again.digest == one.digest
    assert third["search"]["trials"] == first["search"]["trials"]
    assert (first["search"]["resumed"], third["search"]["resumed"]) == (0, 5)


def test_that_no_merge_is_better_than_a_model_alone_is_said(searched: Any, models: Any) -> None:
    notes: list[str] = []
    ranges = {"weight": [0.5, 0.9]}
    fixed = {"parameters": {"normalize": False}, "base": str(models[0])}
    values = {"algorithm": "ties", "ranges": ranges, **fixed}
    searched(values, models[1], notes=notes)
    assert len(notes) == 1
    assert "no merge within the ranges was better than" in notes[0]
    assert "wikitext-llama-4m alone" in notes[0]


def test_a_merge_that_breaks_the_network_is_recorded_and_never_taken(searched: Any, models: Any) -> None:
    fixed = {"parameters": {"lambda": 1e9}}
    given = {"algorithm": "task_arithmetic", "base": str(models[0]), **fixed}
    made, observed = searched({**given, "ranges": {"weight": [0.0, 1e38]}, "trials": 3}, models[1])
    assert [None] in [trial["losses"] for trial in observed["search"]["trials"]]
    assert json.loads(json.dumps(observed, allow_nan=False))["search"]["best"]["losses"] != [None]
    assert made.facts["coefficients"][0]["value"] < 1e30
    with pytest.raises(StageError, match="every merge within the ranges gives numbers that are not finite"):
        searched({**given, "ranges": {"weight": [1e37, 1e38]}, "trials": 2, "finalists": 1}, models[1])


def test_an_encoder_and_a_range_that_is_none_are_refused(
    searched: Any, models: Any, tiny_checkpoint: Any
) -> None:
    with pytest.raises(InputError, match="predicts no next token"):
        searched({"algorithm": "linear"}, tiny_checkpoint("bert"), tiny_checkpoint("bert"))
    with pytest.raises(RecipeError, match=r"ranges.weight: \[1.0\] is no range"):
        searched({"algorithm": "linear", "ranges": {"weight": [1.0]}}, *models)
    with pytest.raises(RecipeError, match="algorithm is missing"):
        searched({}, *models)
    with pytest.raises(RecipeError, match="a search takes models of one vocabulary"):
        searched({"algorithm": "linear", "tokenizer_source": "union"}, *models)
