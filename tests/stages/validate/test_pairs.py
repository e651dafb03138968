"""Encoder-decoders measured: the reference against transformers called plainly, and artifacts against it."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import DataError
from ingot.stages.model import logits_store
from ingot.stages.model.pairs import HALVES, LINES
from ingot.stages.validate import golden
from ingot.stages.validate.cost import CostParams, fit

from .conftest import SENTENCES, WINDOW, measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

    Make = Callable[..., Artifact]

FAMILIES = ["t5", "bart"]
START = {"t5": 2, "bart": 1}


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of different lengths, of which one source is longer than a window."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    pairs = [(SENTENCES[0][:40], SENTENCES[1][:20]), (SENTENCES[2], "A market."), (SENTENCES[1][:15], "Yes.")]
    text = "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in pairs)
    path.write_text(text, encoding="utf-8")
    return path


def plain(directory: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory)


def mean_loss(model: Any, source: list[int], labels: list[int]) -> float:
    """The loss that transformers computes when a model is trained on a pair."""
    import torch

    with torch.no_grad():
        return float(model(input_ids=torch.tensor([source]), labels=torch.tensor([labels])).loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_pairs_are_those_that_transformers_trains_on(
    family: str, run_stage: Make, tiny_checkpoint: Callable[..., Path], lines: Path
) -> None:
    directory = tiny_checkpoint(family)
    model, tokenizer = plain(directory)
    found = logits_store.read(
        run_stage("validate.reference", {"model": directory}, evaluation=str(lines), window=64).path
    )
    assert found.nll is not None
    starts = np.cumsum(found.windows.lengths - 1)[:-1]
    for losses, line in zip(np.split(found.nll, starts), lines.read_text().splitlines(), strict=True):
        pair = json.loads(line)
        expected = mean_loss(
            model, tokenizer(pair["source"])["input_ids"], tokenizer(pair["target"])["input_ids"]
        )
        assert losses.mean() == pytest.approx(expected, rel=1e-5)
    assert (found.pairs, found.cut, found.windows.documents) == (LINES, 0, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_text_are_those_of_second_halves_given_first_ones(
    family: str, reference: Make, tiny_checkpoint: Callable[..., Path], evaluation: Path
) -> None:
    artifact = reference(family)
    found = logits_store.read(artifact.path)
    assert found.nll is not None
    model, tokenizer = plain(tiny_checkpoint(family))
    text = json.loads(evaluation.read_text().splitlines()[4])["text"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:WINDOW]
    before = [] if family == "t5" else [0]
    expected = mean_loss(model, [*before, *ids[: WINDOW // 2], 1], ids[WINDOW // 2 :])
    (window,) = np.flatnonzero(found.windows.document == 4)[:1]
    first = int((found.windows.lengths[:window] - 1).sum())
    assert found.nll[first : first + WINDOW // 2].mean() == pytest.approx(expected, rel=1e-5)
    assert artifact.facts["pairs"] == HALVES
    assert artifact.facts["source_tokens"] == int(found.sources.lengths.sum())


def test_long_sources_and_targets_are_cut_and_counted(
    run_stage: Make, tiny_checkpoint: Callable[..., Path], lines: Path
) -> None:
    found = run_stage(
        "validate.reference", {"model": tiny_checkpoint("bart")}, evaluation=str(lines), window=12
    )
    assert (found.facts["cut"], found.facts["window"]) == (2, 12)
    sources = logits_store.read(found.path).sources
    assert sources is not None
    assert max(sources.lengths) == 12


def test_a_text_shorter_than_one_window_is_refused(
    run_stage: Make, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("The river ran.")
    with pytest.raises(DataError, match="fewer than one window of 64"):
        run_stage("validate.reference", {"model": tiny_checkpoint("t5")}, evaluation=str(path), window=64)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantized_artifact_is_worse_and_its_report_says_how_pairs_came_about(
    family: str, run_stage: Make, reference: Make, exported: Make
) -> None:
    inputs = {"artifact": exported(family, 3), "reference": reference(family)}
    found, samples = measured(run_stage("validate.quality", inputs))
    metrics = found["metrics"]
    assert metrics["kl_divergence"]["value"] > 1e-4
    assert metrics["perplexity"]["value"] != metrics["perplexity"]["reference"]
    assert metrics["perplexity"]["value"] == pytest.approx(
        math.exp(sum(samples["nll_value"]) / sum(samples["tokens"]))
    )
    assert found["data"]["pairs"] == HALVES
    assert set(found["parity"]) == {"prefill", "decode", "batch_2", "batch_2_right_padded"}


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_of_every_length_give_the_references_numbers_through_the_runtime(
    family: str, run_stage: Make, tiny_checkpoint: Callable[..., Path], exported: Make, lines: Path
) -> None:
    inputs = {"model": tiny_checkpoint(family)}
    reference = run_stage("validate.reference", inputs, evaluation=str(lines), window=64)
    inputs = {"artifact": exported(family), "reference": reference}
    found, samples = measured(run_stage("validate.quality", inputs, threads=2))
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(
        found["metrics"]["perplexity"]["reference"], rel=1e-5
    )
    assert found["metrics"]["top1_agreement"]["value"] == 1
    assert samples["document"] == [0, 1, 2]


def test_the_number_of_threads_does_not_change_a_bit(
    run_stage: Make, tiny_checkpoint: Callable[..., Path], evaluation: Path
) -> None:
    inputs, params = {"model": tiny_checkpoint("t5")}, {"evaluation": str(evaluation), "window": WINDOW}
    one, two = (run_stage("validate.reference", inputs, threads=threads, **params) for threads in (1, 2))
    assert one.digest == two.digest


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_goes_on_from_prompts_as_sources(
    family: str, run_stage: Make, reference: Make, exported: Make, tiny_checkpoint: Callable[..., Path]
) -> None:
    import torch

    rows = golden.read(reference(family).path)
    assert [row.prompt for row in rows] == list(golden.PROMPTS)
    model, tokenizer = plain(tiny_checkpoint(family))
    for row in rows:
        source = tokenizer(row.prompt)["input_ids"]
        assert list(row.source_ids) == source
        made = model.generate(torch.tensor([source]), max_new_tokens=24, do_sample=False)[0, 1:].tolist()
        assert list(row.ids)[: len(made)] == made
        assert row.prompt_ids == (START[family],)
    inputs = {"artifact": exported(family), "reference": reference(family)}
    found, _ = measured(run_stage("validate.quality", inputs))
    assert all(row["agreed"] == row["tokens"] and row["value"] is None for row in found["golden"])


def test_cost_encodes_and_decodes(
    run_stage: Make, exported: Make, tiny_checkpoint: Callable[..., Path]
) -> None:
    source = run_stage("load", {}, model=str(tiny_checkpoint("t5")))
    inputs = {"artifact": exported("t5", 4), "reference": exported("t5"), "source": source}
    params = {"prefill_tokens": 16, "decode_tokens": 4, "repeats": 1, "passes": 2, "sweep_batch": [1, 2]}
    found, samples = measured(run_stage("validate.cost", inputs, **params))
    assert len(samples["prefill_ms"]["value"]) == len(samples["decode_ms"]["value"]) == 2
    assert found["metrics"]["decode_ms"]["distribution"]["value"]["n"] == 8
    files = ("model.onnx", "encoder.onnx", "model.onnx.data")
    size = sum((exported("t5", 4).path / name).stat().st_size for name in files)
    assert found["metrics"]["size_bytes"]["value"] == size
    assert found["sweep"]
    assert all("decode_ms" in json.dumps(cell) for cell in found["sweep"])


@pytest.mark.parametrize(("context", "prefill", "decode"), [(512, 128, 32), (20, 20, 19), (2, 2, 1)])
def test_source_and_target_have_a_context_each(context: int, prefill: int, decode: int) -> None:
    plan = fit(CostParams(), "seq2seq-lm", context)
    assert (plan.prefill_tokens, plan.decode_tokens) == (prefill, decode)


def test_what_an_artifact_loses_of_its_source_is_seen(
    run_stage: Make, reference: Make, exported: Make, tmp_path: Path
) -> None:
    """A decoder that attends to nothing of the source must not pass for the reference."""
    import onnx
    from ingot.artifacts.manifest import Artifact

    whole = exported("bart")
    directory = shutil.copytree(whole.path, tmp_path / "deaf", copy_function=shutil.copyfile)
    model = onnx.load(directory / "encoder.onnx", load_external_data=False)
    nodes = []
    for node in model.graph.node:
        if node.output[0].startswith("cross_key_values") and node.output[0].endswith("value"):
            nodes.append(onnx.helper.make_node("Sub", [node.input[0]] * 2, [f"{node.output[0]}/zero"]))
            node.input[0] = nodes[-1].output[0]
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (directory / "encoder.onnx").write_bytes(model.SerializeToString())
    inputs = {"artifact": Artifact(whole.digest, whole.record, directory), "reference": reference("bart")}
    found, _ = measured(run_stage("validate.quality", inputs))
    assert found["metrics"]["kl_divergence"]["value"] > 0.01
    assert found["metrics"]["parity_max_error"]["value"] > 0.1
