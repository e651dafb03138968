"""The model card: its front matter, its numbers, and its code, which is run."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from ingot.artifacts.manifest import Artifact, ArtifactRecord
from ingot.artifacts.schema import build
from ingot.pipeline.card import render_card
from ingot.pipeline.deliver import deliver_targets
from ingot.stages import base
from ingot.stages.base import Context

from ..conftest import ENCODERS, OUTSIDE, OUTSIDE_ENCODERS, OUTSIDE_PAIRS, PAIRS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from ingot.artifacts.store import Store


def front_matter(card: str) -> dict[str, object]:
    match = re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1])


def code(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return block


def test_the_front_matter_is_yaml_that_the_hub_reads(samples: ModuleType) -> None:
    target = samples.target("cpu")
    report = samples.report(target)
    hub = dataclasses.replace(report.model, uri="hf://org/model", license='weird: "licence" # 1')
    found = front_matter(render_card(dataclasses.replace(report, model=hub), target, {}))
    assert found["license"] == 'weird: "licence" # 1'
    assert found["base_model"] == "org/model"
    assert found["pipeline_tag"] == "text-generation"
    unknown = dataclasses.replace(report.model, license=None, task="encoder")
    card = render_card(dataclasses.replace(report, model=unknown), target, {})
    assert "license" not in front_matter(card)
    assert front_matter(card)["pipeline_tag"] == "feature-extraction"
    assert "not stated" in card


def test_the_card_counts_the_parameters_of_what_is_delivered(samples: ModuleType) -> None:
    target = samples.target("cpu")
    report = samples.report(target)
    whole = render_card(report, target, {})
    assert f" with {report.model.parameters:,} parameters, " in whole
    pruned = dataclasses.replace(target, parameters=report.model.parameters // 2)
    assert f" with {pruned.parameters:,} parameters of {report.model.parameters:,}, " in render_card(
        report, pruned, {}
    )


def test_the_card_shows_every_metric(samples: ModuleType) -> None:
    target = samples.target("cpu")
    card = render_card(samples.report(target), target, {})
    for title in ("Perplexity", "KL divergence", "Top-1 agreement", "Size", "Load time", "Peak memory"):
        assert re.search(rf"^\| {title} \|", card, flags=re.MULTILINE)


def test_names_cannot_break_out_of_the_card(samples: ModuleType) -> None:
    target = samples.target("cpu")
    report = samples.report(target)
    evil = dataclasses.replace(report.model, name="x\n---\n# <script>", license="a\n---\nb: c")
    card = render_card(dataclasses.replace(report, model=evil), target, {})
    assert "<script>" not in card
    assert front_matter(card)["license"] == "a\n---\nb: c"


def exported(store: Store, source: Path, tmp_path: Path, name: str) -> Artifact:
    stage = base.get(name)
    with store.outbox() as outbox:
        context = Context(
            params=build(stage.params, {}),
            inputs={"model": Artifact("0" * 64, ArtifactRecord("checkpoint", (), {}), source)},
            output=outbox,
            job=tmp_path,
            seed=0,
            threads=1,
            progress=lambda done, total, what: None,
            note=lambda text: None,
        )
        return outbox.publish("onnx", stage.run(context).facts)


# The last ones are outside the table: biases from the mask alone, keys and values of different width, no
# cache, an encoder, an encoder-decoder.
@pytest.mark.parametrize(
    "family",
    ["llama", "gpt2", "bert", "t5", "bart", "bloom", "deepseek_v3", "openai-gpt", "electra", "marian"],
)
def test_the_code_of_the_card_runs_in_the_delivery(
    family: str, store: Store, samples: ModuleType, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    stage = "export.transformers" if family in OUTSIDE else "export.onnx"
    artifact = exported(store, tiny_checkpoint(family), tmp_path, stage)
    target = samples.target("cpu", status="pass", artifact=artifact.digest)
    deliver_targets(store, samples.report(target), {"cpu": artifact}, tmp_path / "out")
    place = tmp_path / "out" / "cpu"
    card = (place / "README.md").read_text("utf-8")
    assert "`ORT_DISABLE_TELEMETRY=1`" in card
    block = code(card)
    assert "ingot" not in re.sub(r"ingot\.json", "", block)
    pairs = (*PAIRS, *OUTSIDE_PAIRS)
    assert len(block.splitlines()) <= (13 if family not in pairs else 17)
    command = [sys.executable, "-c", block]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if family in (*ENCODERS, *OUTSIDE_ENCODERS):
        assert "(1, " in done.stdout
    else:
        run = target_of if family in pairs else greedy
        assert done.stdout.strip() == run(tiny_checkpoint(family)).strip()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
def test_the_code_of_a_card_for_gpus_runs_on_a_processor_too(
    family: str, store: Store, samples: ModuleType, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact = exported(store, tiny_checkpoint(family), tmp_path, "export.onnx_nvidia")
    target = samples.target("nvidia", status="pass", artifact=artifact.digest)
    deliver_targets(store, samples.report(target), {"nvidia": artifact}, tmp_path / "out")
    place = tmp_path / "out" / "nvidia"
    card = (place / "README.md").read_text("utf-8")
    assert "`pip install onnxruntime-gpu`" in card
    command = [sys.executable, "-c", code(card)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_card_of_an_engine_names_the_library_that_built_it_and_runs_by_its_names(
    samples: ModuleType,
) -> None:
    target = samples.target("gpu", status="unverified", format="tensorrt-engine", requires={})
    session = {"task": "causal-lm", "requires": {"tensorrt_rtx": "1.7.1"}}
    card = render_card(samples.report(target), target, session)
    assert "pip install tensorrt-rtx==1.7.1" in card
    assert "ingot generate ." in card
    assert "ingot validate ." in card
    compile(code(card), "card", "exec")


def test_a_graph_in_bfloat16_is_not_said_to_run_with_numpy(samples: ModuleType) -> None:
    target = samples.target("gpu", status="unverified", format="onnx", requires={})
    card = render_card(samples.report(target), target, {"task": "causal-lm", "dtype": "bfloat16"})
    assert "```python" not in card
    assert "TensorRT" in card


def greedy(checkpoint: Path) -> str:
    """What transformers continues the card's prompt with, greedily, to 48 tokens."""
    import tokenizers
    import torch
    import transformers

    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    ids = tokenizer.encode("Once upon a time").ids
    stop = json.loads((checkpoint / "config.json").read_text("utf-8"))["eos_token_id"]
    while len(ids) < 48 and ids[-1] != stop:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].numpy()
        ids.append(int(np.argmax(logits)))
    return tokenizer.decode(ids)


def target_of(checkpoint: Path) -> str:
    """What transformers makes of the card's prompt as a source, greedily, to 48 tokens with the start."""
    import tokenizers
    import torch
    import transformers

    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    source = torch.tensor([tokenizer.encode("Once upon a time").ids])
    return tokenizer.decode(model.generate(source, max_new_tokens=47, do_sample=False)[0].tolist())


def test_the_card_of_programs_of_torch_names_torch_and_says_how_they_are_run_and_finished(
    samples: ModuleType,
) -> None:
    target = samples.target("gpu", status="unverified", format="aoti", requires={})
    card = render_card(samples.report(target), target, {"device": "cuda", "engine": "aoti"})
    assert front_matter(card)["library_name"] == "pytorch"
    assert front_matter(card)["tags"] == ["aotinductor", "ingot"]
    assert "onnx" not in card
    assert "ingot validate ." in card
    assert "ingot generate ." in card
    passed = samples.target("gpu", status="pass", format="aoti", requires={})
    assert "ingot validate" not in render_card(samples.report(passed), passed, {"device": "cuda"})


def test_a_format_that_the_hub_has_no_library_for_names_none(samples: ModuleType) -> None:
    target = samples.target("gpu", format="", requires={})
    found = front_matter(render_card(samples.report(target), target, {}))
    assert "library_name" not in found
    assert found["tags"] == ["ingot"]
